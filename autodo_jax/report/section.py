"""A part of a page, before it is HTML."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from autodo_jax.workdir.run import Run

UNFINISHED = "The run has not finished yet."


@dataclasses.dataclass(frozen=True)
class Card:
    """A suspect: its images and what is known of it."""

    image: np.ndarray  # uint8 [H, W, channels]
    augmented: np.ndarray  # uint8 [R, H, W, channels]
    name: str
    given: str
    suggested: str
    numbers: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page; what it has not stays empty."""

    id: str
    title: str
    text: str  # how to read it, or why there is nothing
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()  # of a table
    figures: Mapping[str, str] = dataclasses.field(default_factory=dict)  # label: SVG
    cards: Sequence[Card] = ()

    @property
    def is_half(self) -> bool:
        """True where a wide page has it beside another one."""
        return self.id in ("confusion", "embedding", "classes", "weights")


def kind_of(control: Run) -> str:
    """Says in which way the sibling of a run differs from it."""
    return "frozen control" if control.config["hyper.frozen"] else "with Lambda learned"
