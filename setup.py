"""Builds the package with the experiment files of `configs/`; the rest is setup.cfg."""

import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithExperiments(build_py):
    """Copies `configs/` into a wheel, where `--config=NAME` looks for it."""

    def run(self) -> None:
        super().run()
        # An editable installation reads them where they are.
        if not self.editable_mode:
            target = pathlib.Path(self.build_lib, "autodo_jax", "configs")
            target.mkdir(exist_ok=True)
            for path in pathlib.Path("configs").glob("*.py"):
                shutil.copy(path, target)


setup(cmdclass={"build_py": BuildWithExperiments})
