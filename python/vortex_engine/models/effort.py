"""How much of a model a forward pass uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["FULL", "Effort"]


@dataclass(frozen=True)
class Effort:
    """What a draft leaves out; the defaults leave out nothing.

    Attributes:
        planes: "all", or "prefix" for weights as the prefix range of `exact` tiles has them; a small head is used whole
            where it is in RAM.
        n_layers: pass through the first so many layers, then the head; None for all.
    """

    planes: Literal["all", "prefix"] = "all"
    n_layers: int | None = None


FULL = Effort()
