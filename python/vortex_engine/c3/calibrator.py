"""What packing asks of whoever runs the model on a text; packing itself only knows files and weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from vortex_engine.c3.plan import PackPlan
from vortex_engine.c3.report import Divergence
from vortex_engine.c3.source import Source


class Calibrator(Protocol):
    """Chooses the codecs of a `mixed` model and judges the packed one. What it does depends on nothing but its inputs.

    `work` is a folder of its own inside the locked working directory. It outlives an interruption and goes when the
    model is published.
    """

    def check(self, source: Source, plan: PackPlan) -> None:
        """Raise what can be known to be wrong before anything is written."""
        ...

    def choose(self, source: Source, plan: PackPlan, work: Path) -> Mapping[str, str]:
        """The codec of every matrix; empty where the codec asked for is every matrix's."""
        ...

    def judge(self, model: Path, work: Path) -> Divergence | None:
        """How far the finished model, not published yet, is from the checkpoint; None where nobody asked."""
        ...
