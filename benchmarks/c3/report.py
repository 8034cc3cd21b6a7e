"""What a figure hands back: numbers, claims with their targets, and peers that could not take part."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import print_table, write_result


class MissingPeerError(Exception):
    """A peer that is not here; the message names it and says what would bring it."""


@dataclass(frozen=True)
class Claim:
    """One line of the table of targets; `sign` is ">=" or "<=", `detail` the numbers behind the measured one."""

    what: str
    measured: float
    sign: str
    target: float
    peer: str = ""
    detail: str = ""

    @property
    def met(self) -> bool:
        """Whether the measured value reaches the target."""
        compare: Callable[[float, float], bool] = operator.ge if self.sign == ">=" else operator.le
        return compare(self.measured, self.target)

    def to_dict(self) -> dict[str, Any]:
        """The claim as JSON."""
        return {**asdict(self), "met": self.met}


@dataclass
class Figure:
    """The numbers of one figure; grows while it is measured."""

    entries: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    claims: list[Claim] = field(default_factory=list[Claim])
    skipped: list[str] = field(default_factory=list[str])
    facts: dict[str, Any] = field(default_factory=dict[str, Any])

    def claim(
        self, what: str, measured: float | None, sign: str, target: float, *, peer: str = "", detail: str = ""
    ) -> None:
        """Add a claim, unless one side of it could not be measured; `peer`: the engine or bound beside ours."""
        if measured is not None:
            self.claims.append(Claim(what, measured, sign, target, peer, detail))

    def skip(self, reason: object) -> None:
        """Say on the spot, and in the result, what was left out and why."""
        self.skipped.append(str(reason))
        print(f"skipped: {reason}", flush=True)

    def write(self, name: str, machine: dict[str, Any], folder: Path, family: str = "c3") -> Path:
        """Write FAMILY_NAME.json."""
        claims = [claim.to_dict() for claim in self.claims]
        return write_result(
            f"{family}_{name}",
            machine,
            {**self.facts, "claims": claims, "skipped": self.skipped, "entries": self.entries},
            folder,
        )


def print_claims(figures: dict[str, Figure]) -> None:
    """The table of targets, over every figure of this run."""
    rows = [
        [
            name,
            claim.what,
            claim.peer,
            claim.measured,
            f"{claim.sign} {claim.target:g}",
            "yes" if claim.met else "NO",
            claim.detail,
        ]
        for name, figure in figures.items()
        for claim in figure.claims
    ]
    if rows:
        print_table(("figure", "what", "beside", "measured", "target", "met", ""), rows)


def ratio(ours: float | None, peer: float | None) -> float | None:
    """ours / peer, None where one is missing."""
    return None if ours is None or not peer else ours / peer
