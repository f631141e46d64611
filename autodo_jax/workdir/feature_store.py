"""Features of images, kept on the disk by what they are made of.

A folder beside the workdirs of several runs has a folder for each encoder, with files
of the digests of images and their features. Files are only ever added, each as a whole,
so that runs may share the folder.
"""

import hashlib
import pathlib
import zipfile

import numpy as np

from autodo_jax.workdir import files

_DIGEST = 32  # bytes
_DAMAGE = (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile)


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
                with open(path, "rb") as file, np.load(file) as arrays:
                    self._note(path, arrays["digests"])
            except _DAMAGE:
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
                with open(path, "rb") as file, np.load(file) as arrays:
                    features = arrays["features"]
                    found |= {key: features[row] for key, row in rows.items()}
            except _DAMAGE:
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


def opened(workdir: pathlib.Path, encoder: str) -> FeatureStore:
    """Returns the store of an encoder beside a workdir.

    Args:
      workdir: of a run.
      encoder: what the features depend on but for the images.
    """
    name = hashlib.sha256(encoder.encode()).hexdigest()[:16]
    return FeatureStore(workdir.parent / files.FEATURES / name)
