"""Flags in any order and form give the configuration and the options they say."""

import pathlib

import pytest

from autodo_jax import command_line
from autodo_jax import config as config_lib
from autodo_jax.config import help
from autodo_jax.processes import Cluster
from configs import digits, svhn

ROOT = pathlib.Path(__file__).parents[1]
DIGITS, SVHN = f"{ROOT}/configs/digits.py", f"{ROOT}/configs/svhn.py"


def parsed(*flags):
    return command_line.parse(["main", *flags])


def load(*flags):
    return command_line.load_config(parsed(*flags))


def test_options_have_the_values_of_their_flags():
    options = parsed(
        "--overwrite", "--workdir", "some/where", f"--config={DIGITS}:dada",
        "--nocompilation_cache", "--verbosity=1", "--distributed",
        "--config.epochs=3",
    )  # fmt: skip
    assert options.config == f"{DIGITS}:dada"
    assert options.workdir == pathlib.Path("some/where")
    assert options.overwrite and options.with_traceback
    assert not options.compilation_cache and not options.show_help
    assert options.cluster == Cluster(from_scheduler=True)
    assert options.fields == ("--config.epochs=3",)
    assert parsed() == parsed("--compilation_cache", "--nooverwrite")


def test_help_has_every_field_with_its_default_and_its_comment():
    text = command_line.help_text()
    known = config_lib.flatten(config_lib.default_config().to_dict())
    described = {field.name: field for field in help.described()}
    assert described.keys() == known.keys() - {"method"}
    for name, field in described.items():
        assert f"\n  {name} = " in text and field.comment
        if name not in (*config_lib.METHOD_FIELDS, "augment.num_ops"):
            assert eval(field.default, {}) == known[name], name
    assert described["epochs"].comment == "passes over the train set (App. A)"
    assert "Sizes are shares" in described["data.test_size"].comment
    assert "gradients; no effect" in described["eval_batch_size"].comment


@pytest.mark.parametrize("flag", ["--help", "-help", "-h"])
def test_help_is_shown_whatever_else_is_given(flag):
    assert parsed(f"--config={DIGITS}", flag).show_help


@pytest.mark.parametrize(
    "flags",
    [
        [f"--config={DIGITS}", "--config.epochs=40", "--config.hyper.frozen=True"],
        [f"-config={DIGITS}", "-config.epochs=40", "-config.hyper.frozen=True"],
        ["--config", DIGITS, "--config.epochs", "40", "--config.hyper.frozen"],
        ["--config.epochs=40", "--config.hyper.frozen", f"--config={DIGITS}"],
        [
            *("--config=absent.py", f"--config={DIGITS}"),
            *("--config.epochs=7", "--config.epochs=40", "--config.hyper.frozen=true"),
        ],
    ],
)
def test_fields_may_be_set_in_any_order_and_form(flags):
    config = load(*flags)
    assert (config.epochs, config.hyper.frozen) == (40, True)
    expected = digits.get_config()
    expected.epochs, expected.hyper.frozen = 40, True
    assert config_lib.to_json(config) == config_lib.to_json(expected)


@pytest.mark.parametrize("method", config_lib.METHODS)
@pytest.mark.parametrize(("path", "module"), [(DIGITS, digits), (SVHN, svhn)])
def test_the_method_may_be_a_field(method, path, module):
    """The run then is that of the method, not only called so."""
    expected = config_lib.to_json(module.get_config(method))
    for flags in (
        [f"--config={path}:{method}"],
        [f"--config={path}", f"--config.method={method}"],
        [f"--config.method={method}", f"--config={path}:baseline"],
    ):
        assert config_lib.to_json(load(*flags)) == expected


def test_fields_count_more_than_the_method():
    config = load(
        f"--config={SVHN}", "--config.augment.num_ops=7", "--config.method=autodo_a"
    )
    assert config.augment.num_ops == 7 and config.hyper.augment == "per_point"
    assert not config.hyper.weights
