"""All that one sequence carries, as one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from vortex_engine.state.kv import KVState

__all__ = ["SequenceState", "StatePart", "find_part"]

Part = TypeVar("Part")


class StatePart(Protocol):
    """Something that grows by positions and can forget the newest.

    Between `snapshot` and the `commit` or `rollback` to its mark, forward passes append positions. Marks may be
    nested; one that is committed or rolled back ends all that were taken after it.
    """

    @property
    def n_bytes(self) -> int:
        """Bytes it holds."""
        ...

    def snapshot(self) -> Any:
        """A mark; cheap, whatever the part holds."""
        ...

    def commit(self, mark: Any, n_positions: int) -> None:
        """Keep the first `n_positions` appended since the mark and forget the rest."""
        ...

    def rollback(self, mark: Any) -> None:
        """Be what it was at the mark."""
        ...


class SequenceState:
    """The KV cache of a sequence and whatever else its model carries from token to token.

    A drafted block is `mark = snapshot()`, a forward pass over its rows, `commit(mark, n_rows_kept)`; an interrupted
    one is `rollback(mark)`. Not safe for use from two threads at once.

    Attributes:
        kv: keys and values; a model without attention has no layers in it, and its length still counts.
        parts: the others, in the order in which the model made them.
    """

    def __init__(self, kv: KVState, parts: Sequence[StatePart] = ()) -> None:
        self.kv = kv
        self.parts = tuple(parts)
        self._all: tuple[StatePart, ...] = (kv, *self.parts)

    @property
    def length(self) -> int:
        """Positions of the sequence."""
        return self.kv.length

    @property
    def capacity(self) -> int:
        """Positions there is room for."""
        return self.kv.capacity

    @property
    def kv_bytes(self) -> int:
        """Bytes of the positions in use, and of what the other parts hold."""
        return sum(part.n_bytes for part in self._all)

    def snapshot(self) -> tuple[Any, ...]:
        """A mark of every part."""
        return tuple([part.snapshot() for part in self._all])

    def commit(self, mark: tuple[Any, ...], n_positions: int) -> None:
        """Keep the first `n_positions` since the mark, in every part."""
        for i, part in enumerate(self._all):
            part.commit(mark[i], n_positions)

    def rollback(self, mark: tuple[Any, ...]) -> None:
        """Every part is what it was at the mark."""
        for i, part in enumerate(self._all):
            part.rollback(mark[i])


def find_part(state: SequenceState, kind: type[Part]) -> Part | None:
    """The part of a sequence that is of this class; None where its model has none."""
    return next((part for part in state.parts if isinstance(part, kind)), None)
