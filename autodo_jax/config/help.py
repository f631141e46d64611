"""The fields of a configuration with their comments, for `--help`."""

import ast
import inspect
import io
import tokenize
from collections.abc import Iterator
from typing import NamedTuple

from autodo_jax.config import fields


class Field(NamedTuple):
    """A field as the source declares it."""

    name: str  # like "data.mean"
    default: str  # as it is written there
    comment: str  # "" for none


def described() -> Iterator[Field]:
    """Yields all fields in their order, but for the method, which has a flag."""
    source = inspect.getsource(fields)
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    lines = source.splitlines()
    for function in ast.parse(source).body:
        if not isinstance(function, ast.FunctionDef):
            continue
        section = "" if function.name == "default_config" else function.name[1:] + "."
        for statement in function.body:
            if (
                isinstance(statement, ast.Assign)
                and isinstance(statement.targets[0], ast.Attribute)
                and not isinstance(statement.value, ast.Call)
            ):
                first, last = statement.lineno, statement.end_lineno or statement.lineno
                while lines[first - 2].lstrip().startswith("#"):
                    first -= 1
                said = [comments[i] for i in range(first, last + 1) if i in comments]
                name = section + statement.targets[0].attr
                if name != "method":
                    yield Field(name, ast.unparse(statement.value), " ".join(said))
