"""What LAVA layers carry: a bank of what earlier windows wrote, and the exact rows of the newest two windows.

Positions come in windows of `LavaState.WINDOW`. A row of window i reads the rows of windows i - 1 and i, its own
included, as they are, and from the bank what was written in windows 0 .. i - 2. The written rows of window i - 2 enter
the bank before the first row of window i is read (an event), so what a row reads depends on its position alone, not on
how rows come in passes. An event inside a drafted block is undone with the block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vortex_engine.state.positions import MarkedState, PositionRows
from vortex_engine.state.surprise import Surprises

if TYPE_CHECKING:
    from vortex_engine.ops import OpContext
    from vortex_engine.state.lava_bank import LavaBank

__all__ = ["LavaMemory", "LavaState"]

Floats = NDArray[np.float32]


class LavaMemory:
    """One layer: its bank, and keys and values of the newest positions.

    A pass through it is `begin`, `put`, and for each of its windows `enter` and reads of `bank` and `recent`.

    Attributes:
        bank: what windows before the last entered one but one have written.
        offset: positions that what the bank held before the sequence is older by.
    """

    def __init__(self, bank: LavaBank, window: int) -> None:
        self.bank, self.offset = bank, 0
        self._window = window
        self._keys = PositionRows(bank.dim, 3 * window)
        self._values = PositionRows(bank.value_dim, 3 * window)
        self._n_entered = 0  # windows whose rows are in the bank
        self._events: list[tuple[int, int]] = []  # (first position that sees it, mark of the bank), not settled

    @property
    def n_bytes(self) -> int:
        """Bytes of its rows and its bank."""
        return self._keys.n_bytes + self._values.n_bytes + self.bank.n_bytes

    def put(self, position: int, floor: int, keys: Floats, values: Floats) -> None:
        """A pass begins with rows from `position` on, [T, dim] and [T, value_dim].

        Args:
            floor: the first position that may still be forgotten.
        """
        self.undo(position)
        oldest = max(0, (floor - 1) // self._window - 1) * self._window
        self._keys.put(position, keys, oldest)
        self._values.put(position, values, oldest)

    def enter(self, window: int, written: Callable[[int, int], tuple[NDArray[np.int64], Floats]]) -> None:
        """Let the rows of this window be read: what the one before the last has written goes into the bank.

        Args:
            written: of the positions begin .. end - 1, those that are written and their importance.
        """
        while self._n_entered < window - 1:
            begin = self._n_entered * self._window
            self._events.append((begin + 2 * self._window, self.bank.begin()))
            self._n_entered += 1
            self._insert(begin, begin + self._window, written)

    def finish(self, length: int, written: Callable[[int, int], tuple[NDArray[np.int64], Floats]]) -> None:
        """Let all that `length` positions have written go into the bank; the sequence does not go on."""
        for begin in range(self._n_entered * self._window, length, self._window):
            self._insert(begin, min(begin + self._window, length), written)
        self._n_entered = -(-length // self._window)

    def _insert(self, begin: int, end: int, written: Callable[[int, int], tuple[NDArray[np.int64], Floats]]) -> None:
        positions, importance = written(begin, end)
        if len(positions):
            keys, values = (rows.rows(begin, end)[positions - begin] for rows in (self._keys, self._values))
            self.bank.insert(keys, values, positions + self.offset, importance)

    def recent(self, window: int, end: int) -> tuple[int, Floats, Floats]:
        """The first position that rows of this window see, and keys and values from there to before `end`."""
        begin = max(0, window - 1) * self._window
        return begin, self._keys.rows(begin, end), self._values.rows(begin, end)

    def undo(self, length: int) -> None:
        """Forget every event that no position before `length` has seen."""
        while self._events and self._events[-1][0] >= length:
            self.bank.rollback(self._events.pop()[1])
            self._n_entered -= 1

    def settle(self) -> None:
        """No event is forgotten any more."""
        if self._events:
            self.bank.commit(self._events[0][1])
            self._events.clear()


class LavaState(MarkedState):
    """The LAVA layers of a sequence, as a part of its `SequenceState`.

    A pass over T rows is `LavaMemory.put`, `enter` and reads for each layer it goes through, then `record` and `end`.
    What is said of `RecurrentState` holds of passes that are interrupted.

    Attributes:
        surprises: of the newest positions; None where the model writes for their place alone.
        offset: positions of earlier sequences, which the banks may remember.
    """

    WINDOW = 64

    def __init__(self, ctx: OpContext, banks: Sequence[LavaBank], write_every: int, write_on_surprise: float) -> None:
        """
        Args:
            ctx: what surprises are computed on.
            write_every: positions that are multiples of it are written; 0 for none.
            write_on_surprise: nats of surprise above which a position is written; 0 for off.
        """
        super().__init__()
        self.layers = tuple(LavaMemory(bank, self.WINDOW) for bank in banks)
        self.surprises = Surprises(ctx) if write_on_surprise else None
        self.offset = 0
        self._write_every, self._threshold = write_every, write_on_surprise

    @property
    def n_bytes(self) -> int:
        """Bytes that the layers and the surprises hold."""
        return sum(layer.n_bytes for layer in self.layers) + (self.surprises.n_bytes if self.surprises else 0)

    def written(self, begin: int, end: int) -> tuple[NDArray[np.int64], Floats]:
        """Of these positions those that are written, and their importance: their surprise where it is known, or 0."""
        positions = np.arange(begin, end, dtype=np.int64)
        chosen = positions % self._write_every == 0 if self._write_every else np.zeros(end - begin, np.bool_)
        importance = np.zeros(end - begin, np.float32)
        if self.surprises:
            importance = self.surprises.of(begin, end)
            chosen |= importance > self._threshold
        return positions[chosen], importance[chosen]

    def recall(self, banks: Sequence[LavaBank], offset: int) -> None:
        """Begin with what earlier sequences of `offset` positions in all have left in these banks, one a layer.

        Raises:
            ValueError: the sequence has begun, or the number of banks is not that of its layers.
        """
        if self.length or len(banks) != len(self.layers):
            raise ValueError(
                f"[LavaState] a sequence of {self.length} positions and {len(self.layers)} memories cannot begin with "
                f"{len(banks)} banks"
            )
        self.offset = offset
        for layer, bank in zip(self.layers, banks, strict=True):
            layer.bank, layer.offset = bank, offset

    def finish(self) -> tuple[tuple[LavaBank, ...], int]:
        """All that the sequence has written is put into its banks, which are returned with the `offset` of the next
        sequence; this one does not go on.

        Raises:
            ValueError: a mark is open.
        """
        if self.is_marked:
            raise ValueError("[LavaState] a sequence with an open mark cannot be finished; commit or roll back")
        for layer in self.layers:
            layer.finish(self.length, self.written)
        return tuple(layer.bank for layer in self.layers), self.offset + self.length

    def record(self, token_ids: NDArray[np.int64], logits: Floats) -> None:
        """Before `end`: all logits [T, vocab] of the pass; does nothing where surprises are not asked for."""
        if self.surprises:
            oldest = max(0, (self.floor - 1) // self.WINDOW - 1) * self.WINDOW
            self.surprises.record(self.length, self.floor, oldest, token_ids, logits)

    def end(self, n_rows: int) -> None:
        """A pass has gone over `n_rows` positions."""
        super().end(n_rows)
        self._settle()

    def commit(self, mark: tuple[int, int], n_positions: int) -> None:
        """Keep the first `n_positions` since the mark and forget the rest."""
        super().commit(mark, n_positions)
        for layer in self.layers:
            layer.undo(self.length)
        self._settle()

    def _settle(self) -> None:
        if self.is_marked:
            return
        for layer in self.layers:
            layer.settle()
        if self.surprises:
            self.surprises.settle(self.length)
