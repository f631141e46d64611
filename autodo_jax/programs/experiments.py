"""The experiment files that the package brings, and how they are found by name.

They are the files of `configs/` in the repository. A wheel has a copy of them.
"""

import pathlib

from autodo_jax.errors import UsageError

_PACKAGE = pathlib.Path(__file__).parents[1]
# In a wheel, and in a checkout.
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def names() -> list[str]:
    """Returns the names of the experiments, as `find` takes them."""
    return sorted(path.stem for path in _files().values())


def find(name: str) -> pathlib.Path:
    """Returns the file of an experiment.

    Args:
      name: a path, or a name such as "digits". A file of that path counts first.

    Raises:
      UsageError: there is neither.
    """
    path = pathlib.Path(name)
    if path.is_file():
        return path
    known = _files()
    if name in known:
        return known[name]
    kind = "file" if path.name != name or path.suffix else "file or name"
    wanted = path.stem if path.stem in known else "digits"
    raise UsageError(
        f"no experiment {kind} {name!r}",
        f"pass --config=FILE or a name, as --config={wanted}; "
        f"there are {', '.join(known)}",
    )


def _files() -> dict[str, pathlib.Path]:
    for folder in _FOLDERS:
        # Another project's folder of this name may lie beside an installed package.
        if (folder / "digits.py").is_file():
            return {path.stem: path for path in sorted(folder.glob("*.py"))}
    return {}
