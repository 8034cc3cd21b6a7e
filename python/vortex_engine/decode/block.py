"""What is drafted at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["Block", "DrafterCounts", "Sibling"]


@dataclass(frozen=True)
class Sibling:
    """Another id in place of draft number `depth`, from 1 on; `confidence` that it is right if the draft is not."""

    depth: int
    token_id: int
    confidence: float


@dataclass(frozen=True)
class Block:
    """Drafted ids with the drafter's confidence in each, and siblings of some; all empty for a plain step."""

    drafter: str | None
    token_ids: tuple[int, ...] = ()
    confidences: tuple[float, ...] = ()
    siblings: tuple[Sibling, ...] = ()
    draft_s: float = 0.0

    @classmethod
    def of(cls, drafter: str, pairs: Sequence[tuple[int, float]]) -> Block:
        """A chain of (id, confidence) without siblings."""
        if not pairs:
            return cls(None)
        token_ids, confidences = zip(*pairs, strict=True)
        return cls(drafter, token_ids, confidences)

    @property
    def n_rows(self) -> int:
        """Of the sweep that verifies it."""
        return 1 + len(self.token_ids) + len(self.siblings)

    def taking(self, draft_s: float) -> Block:
        """The same, drafted in so many seconds."""
        return replace(self, draft_s=draft_s)


@dataclass
class DrafterCounts:
    """What one drafter did in one generation; siblings are counted apart from the chain's drafts."""

    blocks: int = 0
    drafted: int = 0
    accepted: int = 0
    siblings: int = 0
    siblings_accepted: int = 0
