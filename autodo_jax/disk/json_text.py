"""JSON from elsewhere: bounded in depth and number, and of the kinds it has to be.

Errors name the field, what came and what is expected.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_MAX_DEPTH = 32
_MAX_VALUES = 2**21  # about; each takes memory beyond its text
_MAX_DIGITS = 19  # of an integer
_SHOWN = 60  # characters of a value in a message


class Kind(NamedTuple):
    """What a value has to be."""

    words: str  # as in "a number >= 0"
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def number(low: float = -math.inf, high: float = math.inf) -> Kind:
    """Returns numbers in [low, high], and NaN for those that are not known."""
    words = "a number"
    if low > -math.inf or high < math.inf:
        words = (
            f"a number in [{low:g}, {high:g}]"
            if high < math.inf
            else (f"a number >= {low:g}")
        )
    return Kind(words, lambda v: _is_number(v) and (math.isnan(v) or low <= v <= high))


def integer(low: int, high: int = 2**53) -> Kind:
    """Returns integers in [low, high]."""
    words = f"an integer >= {low}" if high == 2**53 else f"an integer {low}..{high}"
    return Kind(words, lambda v: type(v) is int and low <= v <= high)


def text(max_length: int) -> Kind:
    """Returns texts."""
    words = f"a text of up to {max_length:,} characters"
    return Kind(words, lambda v: isinstance(v, str) and len(v) <= max_length)


def list_of(kind: Kind, *lengths: int) -> Kind:
    """Returns lists of values of a kind, of one of the lengths, or of any."""
    words = f"a list of which each is {kind.words}"
    if lengths:
        words += f", with {' or '.join(map(str, lengths))} of them"
    return Kind(
        words,
        lambda v: (
            isinstance(v, list)
            and (not lengths or len(v) in lengths)
            and all(map(kind.holds, v))
        ),
    )


FLAG = Kind("true or false", lambda v: isinstance(v, bool))


def parse(content: bytes) -> dict[str, Any]:
    """Returns an object, null as NaN.

    Raises:
      ValueError: it is not a JSON object in UTF-8, nests too deep, has too many values,
        a number that is not finite or not of 64 bits, or two values of one name.
    """
    if sum(map(content.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise ValueError(f"it has more than {_MAX_VALUES:,} values")
    try:
        found = json.loads(
            content.decode(),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
        found = _with_nan(found, 0)
    except RecursionError as error:
        raise ValueError(f"it nests more than {_MAX_DEPTH} deep") from error
    if not isinstance(found, dict):
        raise ValueError(f"it is {shown(found)}, expected a JSON object")
    return found


def check(
    values: Mapping[str, Any],
    needed: Mapping[str, Kind],
    optional: Mapping[str, Kind] | None = None,
) -> None:
    """Raises ValueError where a field is missing, or not of its kind."""
    missing = [name for name in needed if name not in values]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    for name, kind in {**needed, **(optional or {})}.items():
        if name in values and not kind.holds(values[name]):
            raise ValueError(f"{name} is {shown(values[name])}, expected {kind.words}")


def shown(value: Any) -> str:
    """Returns a value for a message, cut where it is long."""
    if isinstance(value, float) and math.isnan(value):
        return "null"
    if isinstance(value, (dict, list)):
        return f"a {type(value).__name__} of {len(value):,}"
    if isinstance(value, str) and len(value) > _SHOWN:
        half = _SHOWN // 2
        return f"{value[:half]!r}...{value[-half:]!r}"
    return repr(value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it names {shown(twice)} twice")
    return found


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _MAX_DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits, expected 64 bits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"a number is {shown(digits)}, which is not finite")
    return value


def _constant(name: str) -> float:
    if name != "NaN":
        raise ValueError(f"a number is {name}, which is not finite")
    return math.nan


def _with_nan(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError(f"it nests more than {_MAX_DEPTH} deep")
    if isinstance(value, list):
        return [_with_nan(each, depth + 1) for each in value]
    if isinstance(value, dict):
        return {name: _with_nan(each, depth + 1) for name, each in value.items()}
    return math.nan if value is None else value
