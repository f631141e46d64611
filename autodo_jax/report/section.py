"""Sections of a page, before they become HTML."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from autodo_jax.workdir.run import Run

UNFINISHED = "The run has not finished yet."


@dataclasses.dataclass(frozen=True)
class Card:
    """A suspect: its images, labels and scores."""

    image: np.ndarray  # uint8 [H, W, channels]
    augmented: np.ndarray  # uint8 [R, H, W, channels]
    name: str
    given: str
    suggested: str
    numbers: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of a page; unused fields stay empty."""

    id: str
    title: str
    text: str  # how to read the section, or why it is empty
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()  # of a table
    figures: Mapping[str, str] = dataclasses.field(default_factory=dict)  # label: SVG
    cards: Sequence[Card] = ()

    @property
    def is_half(self) -> bool:
        """True if a wide page shows it next to another section."""
        return self.id in ("confusion", "embedding", "classes", "weights")


def kind_of(control: Run) -> str:
    """Returns a name for the control of a run, by how it differs from the run."""
    return "frozen control" if control.config["hyper.frozen"] else "with Lambda learned"
