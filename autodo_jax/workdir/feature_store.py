"""Features of images, kept on the disk by what they are made of.

A folder beside the workdirs of several runs has a folder for each encoder, with files
of the digests of images and their features. Files are only ever added, each as a whole,
so that runs may share the folder.
"""

import hashlib
import os
import pathlib

import numpy as np

from autodo_jax.disk import arrays, regular
from autodo_jax.disk.arrays import Expected
from autodo_jax.workdir import files

_DIGEST = 32  # bytes
_ARRAYS = {
    "digests": Expected("u", ("N", "bytes"), 1),
    "features": Expected("f", ("N", "D"), 4),
}
_BOUNDS = {"N": 2**31, "bytes": _DIGEST, "D": 2**24}


def digests(images: np.ndarray) -> np.ndarray:
    """Returns what identifies images, uint8 [N, 32], by their pixels [N, H, W, C]."""
    found = [hashlib.sha256(image.tobytes()).digest() for image in images]
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, _DIGEST)


class FeatureStore:
    """The features that one encoder has of images.

    A damaged file is as good as none: its features are computed again.

    Attributes:
      folder: of its files; it need not exist yet.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._places: dict[bytes, tuple[pathlib.Path, int]] = {}
        for path in sorted(folder.glob("*.npz")):
            try:
                self._note(path, _load(path, "digests"))
            except Exception:  # NumPy and zipfile raise many kinds.
                continue

    def find(self, keys: np.ndarray) -> dict[bytes, np.ndarray]:
        """Returns digest -> features [D], of those images that are known.

        Args:
          keys: from `digests`.
        """
        wanted: dict[pathlib.Path, dict[bytes, int]] = {}
        for key in map(bytes, keys):
            if key in self._places:
                path, row = self._places[key]
                wanted.setdefault(path, {})[key] = row
        found: dict[bytes, np.ndarray] = {}
        for path, rows in wanted.items():
            try:
                features = _load(path, "features")
                found |= {key: features[row] for key, row in rows.items()}
            except Exception:  # As above; or there are fewer rows by now.
                continue
        return found

    def add(self, keys: np.ndarray, features: np.ndarray) -> None:
        """Keeps features [N, D] of images.

        Raises:
          WriteError: the folder cannot be written.
        """
        name = hashlib.sha256(keys.tobytes()).hexdigest()[:16]
        path = self.folder / f"{name}.npz"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise files.write_error(path, error) from error
        files.write(path, lambda file: np.savez(file, digests=keys, features=features))
        self._note(path, keys)

    def _note(self, path: pathlib.Path, keys: np.ndarray) -> None:
        for row, key in enumerate(keys):
            self._places[bytes(key)] = path, row


def _load(path: pathlib.Path, name: str) -> np.ndarray:
    with regular.open_file(path) as file:
        # They are not compressed.
        size = os.fstat(file.fileno()).st_size
        return arrays.read_npz(file, _ARRAYS, _BOUNDS, size, only=[name])[name]


def opened(workdir: pathlib.Path, encoder: str) -> FeatureStore:
    """Returns the store of an encoder beside a workdir.

    Args:
      workdir: of a run.
      encoder: what the features depend on but for the images.
    """
    name = hashlib.sha256(encoder.encode()).hexdigest()[:16]
    return FeatureStore(workdir.parent / files.FEATURES / name)
