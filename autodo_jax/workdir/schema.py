"""What the JSON files of a workdir hold: each field, its type and its range."""

import functools
import math
from collections.abc import Mapping
from typing import Any

from autodo_jax import config as config_lib
from autodo_jax.disk import json_text
from autodo_jax.disk.json_text import FLAG, Kind, integer, list_of, number, text

_NAME = text(1024)  # of a class, a method, a data set
_TEXT = text(2**16)
_PERCENT = number(0, 100)
# Metrics are of float32. Their means and squares are finite in float64.
_LARGEST = 1e39
_MAX_SIDE = 2**16  # of an image

_CLASS_ERROR = Kind(
    "percentages by the names of one class or more",
    lambda v: (
        isinstance(v, dict)
        and len(v) > 0
        and all(map(_NAME.holds, v))
        and all(map(_PERCENT.holds, v.values()))
    ),
)
RESULT: Mapping[str, Kind] = {
    "dataset": _NAME,
    "method": _NAME,
    "frozen": FLAG,
    "class_error": _CLASS_ERROR,
    "seed": integer(-(2**63), 2**63),
    "epochs": integer(1),
    "imbalance_ratio": number(0, _LARGEST),
    "noise_ratio": number(0, 1),
    "test_error": _PERCENT,
    "seconds": number(0, _LARGEST),
}
# Fields that some runs, or older versions, do not have.
MORE_OF_RESULT: Mapping[str, Kind] = {
    **dict.fromkeys(("num_train", "num_val", "num_test", "num_suspects"), integer(0)),
    **dict.fromkeys(("best_val_epoch", "lambda_epoch"), integer(1)),
    **dict.fromkeys(
        ("expected_wrong_labels", "expected_wrong_suspects"), number(0, _LARGEST)
    ),
    "val_error": _PERCENT,
    "noise_auroc": number(0, 1),
    "lambda_stop": _TEXT,
    "image_shape": list_of(integer(1, _MAX_SIDE), 1, 3),
}
DATA: Mapping[str, Kind] = {
    "rows": list_of(list_of(_TEXT, 2)),
    "warnings": list_of(_TEXT),
    "certain_errors": list_of(_TEXT),
    "conflicts": list_of(list_of(_TEXT, 4)),
}
_ERRORS = ("val_error", "test_error")
_METRIC = number(-_LARGEST, _LARGEST)


def record(line: bytes, epoch: int) -> dict[str, Any]:
    """Returns the metrics of an epoch, a line of their file.

    Raises:
      ValueError: it is not JSON, of another epoch, or has anything but numbers.
    """
    try:
        found = json_text.parse(line)
        json_text.check(found, {"epoch": integer(epoch, epoch)})
        json_text.check(found, dict.fromkeys(found, _METRIC))
        json_text.check(found, {}, dict.fromkeys(_ERRORS, _PERCENT))
    except ValueError as error:
        raise ValueError(f"line {epoch}: {error}") from error
    return found


@functools.cache
def of_config() -> Mapping[str, Kind]:
    """Returns the kinds of the fields of a configuration, by their full names."""
    fields = config_lib.flatten(config_lib.to_json(config_lib.default_config()))
    return {name: _like(value) for name, value in fields.items()}


def _like(value: Any) -> Kind:
    if isinstance(value, bool):
        return FLAG
    if isinstance(value, str):
        return _TEXT
    if isinstance(value, (int, float)):
        return Kind(
            "a number",
            lambda v: number(-1e300, 1e300).holds(v) and not math.isnan(v),
        )
    return Kind(
        "a list of numbers or texts",
        lambda v: (
            isinstance(v, list)
            and all(
                _TEXT.holds(each) or number(-1e300, 1e300).holds(each) for each in v
            )
        ),
    )
