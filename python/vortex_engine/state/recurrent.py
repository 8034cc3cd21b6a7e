"""What recurrent layers carry: states of constant size, and the newest inputs, so that they can forget drafts.

A state cannot run backwards. While marks are open, a layer therefore has its state as it was at the oldest of them (the
base) beside the newest one (the head), and the inputs of the positions since. To forget positions is to move a length:
the next pass starts from the base and replays the inputs that were kept, the very steps that were computed before, so
its bits are those of a sequence that never had the others (the idea of ReplaySSM, vllm-project/vllm#48018).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vortex_engine.state.positions import MarkedState

if TYPE_CHECKING:
    from vortex_engine.state.sequence import SequenceState

__all__ = ["RecurrentLayer", "RecurrentState", "Replay", "recurrent_layers"]

Floats = NDArray[np.float32]
# replay(inputs, initial, last): `last` becomes the state after those rows from `initial`; they may be the same array.
Replay = Callable[[Sequence[Floats], Floats, Floats], None]

_MIN_ROWS = 32


class _Rows:
    """Rows of one width at numbered places, with room that grows."""

    def __init__(self, width: int, n_rows: int) -> None:
        self.data = np.zeros((n_rows, width), np.float32)

    def put(self, at: int, rows: Floats) -> None:
        end = at + len(rows)
        if end > len(self.data):
            grown = np.zeros((max(end, 2 * len(self.data)), self.data.shape[1]), np.float32)
            grown[:at] = self.data[:at]
            self.data = grown
        self.data[at:end] = rows


class RecurrentLayer:
    """One layer: a causal convolution's last columns and a scan's state.

    A pass through it is `begin`, the convolution from `window`, the scan from `source` into `target`, `end`.

    Attributes:
        source, target: the state that the scan starts from and where it puts the last one; of `state_shape`.
        window: [width - 1, n_columns] float32, the convolution's inputs before the pass.
    """

    def __init__(self, state_shape: tuple[int, ...], width: int, n_columns: int, input_widths: Sequence[int]) -> None:
        """
        Args:
            state_shape: of the scan's state.
            width: of the convolution's kernel; n_columns: its channels.
            input_widths: of the rows that a replay takes.
        """
        self._base, self._head = np.zeros(state_shape, np.float32), np.zeros(state_shape, np.float32)
        self._base_at, self._head_at = 0, -1
        self._n_before = width - 1
        # Row 0 of the inputs is that of position _start; the columns of the positions before it lie in front.
        self._start = 0
        self._columns = _Rows(n_columns, self._n_before + _MIN_ROWS)
        self._inputs = [_Rows(input_width, _MIN_ROWS) for input_width in input_widths]
        self._tail: Floats | None = None  # the columns in front after a pass whose inputs were not kept
        self._position, self._keeps = 0, False
        self.source = self.target = self._base

    @property
    def n_bytes(self) -> int:
        """Bytes of its arrays."""
        rows = (self._columns, *self._inputs)
        return self._base.nbytes + self._head.nbytes + sum(one.data.nbytes for one in rows)

    @property
    def row_bytes(self) -> int:
        """Bytes that a position takes while it may be forgotten."""
        return 4 * sum(rows.data.shape[1] for rows in (self._columns, *self._inputs))

    @property
    def window(self) -> Floats:
        at = self._position - self._start
        return self._columns.data[at : at + self._n_before]

    def begin(self, position: int, floor: int, keeps: bool, replay: Replay) -> None:
        """A pass begins.

        Args:
            position: its first.
            floor: the first position that may still be forgotten; `position` where no mark is open.
            keeps: whether inputs must be kept, because a mark is open.
        """
        self._position, self._keeps = position, keeps
        if self._base_at < floor:
            if self._head_at == position == floor:
                self._base, self._head = self._head, self._base
            else:
                replay(self._rows(floor), self._base, self._base)
            self._base_at = floor
            if floor == position:
                self._restart()
        if self._base_at == position:
            self.source = self._base
        else:
            if self._head_at != position:
                replay(self._rows(position), self._base, self._head)
            self.source = self._head
        self.target = self._head
        self._head_at = -1  # until the pass is done

    def end(self, columns: Floats, inputs: Sequence[Floats]) -> None:
        """The pass is done: [T, n_columns] that went into the convolution, and the rows that a replay takes."""
        n_rows = len(columns)
        if self._keeps:
            at = self._position - self._start
            self._columns.put(self._n_before + at, columns)
            for rows, values in zip(self._inputs, inputs, strict=True):
                rows.put(at, values)
            self._tail = None
        else:
            kept = columns[max(0, n_rows - self._n_before) :]
            self._tail = np.concatenate((self.window[len(kept) :], kept))
        self._head_at = self._position + n_rows

    def _rows(self, end: int) -> list[Floats]:
        return [rows.data[self._base_at - self._start : end - self._start] for rows in self._inputs]

    def _restart(self) -> None:
        front = self.window.copy() if self._tail is None else self._tail
        self._columns.data[: self._n_before] = front
        self._start, self._tail = self._position, None


class RecurrentState(MarkedState):
    """The recurrent layers of a sequence, as a part of its `SequenceState`.

    A pass over T rows is `begin_layer` and `RecurrentLayer.end` for each layer it goes through, then `end(T)`. One that
    is interrupted, or leaves out layers, has no effect once it is rolled back; without an open mark a pass may only be
    repeated.
    """

    def __init__(self, layers: Sequence[RecurrentLayer]) -> None:
        super().__init__()
        self.layers = tuple(layers)

    @property
    def n_bytes(self) -> int:
        """Bytes that the layers hold."""
        return sum(layer.n_bytes for layer in self.layers)

    def begin_layer(self, index: int, replay: Replay) -> RecurrentLayer:
        """The layer, ready for the rows of the pass."""
        layer = self.layers[index]
        layer.begin(self.length, self.floor, self.is_marked, replay)
        return layer


def recurrent_layers(state: SequenceState) -> RecurrentState:
    """The recurrent layers of a sequence whose model has some."""
    return next(part for part in state.parts if isinstance(part, RecurrentState))
