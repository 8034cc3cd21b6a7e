"""From sorted windows of n tokens to the counts of all shorter n-grams, in one pass over the windows.

A window that reaches over the end of its document is filled with zeros, symbols are token ids + 1: then the count of an
n-gram is that of all windows it begins, and sorted windows list every order in the order of a trie.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vortex_engine.grams.spill import Spill

__all__ = ["OrderBuilder", "StoredOrder"]

_BLOCK_ROWS = 1 << 13

Column = NDArray[Any]


class StoredOrder:
    """The n-grams of one n, sorted: last ids, counts, and of each its number and that of its context."""

    def __init__(self, folder: Path) -> None:
        self.n_grams = 0
        # Numbers count what has been seen, kept or not.
        self.n_seen = 0
        self._ids = Spill(folder, np.uint32)
        self._counts = Spill(folder, np.int64)
        self._numbers = Spill(folder, np.int64)
        self._contexts = Spill(folder, np.int64)

    def append(self, ids: Column, counts: Column, numbers: Column, contexts: Column) -> None:
        self.n_grams += len(ids)
        columns = (self._ids, self._counts, self._numbers, self._contexts)
        for column, values in zip(columns, (ids, counts, numbers, contexts), strict=True):
            column.append(values)

    def ids(self) -> Iterator[Column]:
        """Last token ids, in blocks."""
        return self._ids.blocks()

    def counts(self) -> Iterator[Column]:
        """Counts, in blocks."""
        return self._counts.blocks()

    def children(self, context: StoredOrder | None) -> Iterator[Column]:
        """How many of these n-grams follow each n-gram of `context`, in blocks; of no context, all."""
        if context is None:
            yield np.asarray([self.n_grams])
            return
        contexts = self._contexts.view()
        for numbers in context._numbers.blocks():
            yield np.searchsorted(contexts, numbers, "right") - np.searchsorted(contexts, numbers, "left")

    def close(self) -> None:
        """Give the disk space back."""
        for column in (self._ids, self._counts, self._numbers, self._contexts):
            column.close()


class OrderBuilder:
    """Takes sorted windows and keeps, of every order, the n-grams that occur `min_count` times.

    Use as a context manager: what was spilled is gone at its end.
    """

    def __init__(self, n: int, *, min_count: int, folder: Path) -> None:
        self._min_count = min_count
        self.orders = [StoredOrder(folder) for _ in range(n)]
        self._last = np.zeros((1, n), np.uint32)
        # Of every order the n-gram that the next window may begin with again: id, count, number, context.
        self._open: list[tuple[int, int, int, int] | None] = [None] * n

    def __enter__(self) -> OrderBuilder:
        return self

    def __exit__(self, *_: object) -> None:
        for order in self.orders:
            order.close()

    def push(self, windows: NDArray[np.uint32], counts: NDArray[np.int64]) -> None:
        """Take the next windows, [M, n] symbols, and how often each occurs, [M]."""
        for start in range(0, len(windows), _BLOCK_ROWS):
            self._push(windows[start : start + _BLOCK_ROWS], counts[start : start + _BLOCK_ROWS])

    def _push(self, windows: NDArray[np.uint32], counts: NDArray[np.int64]) -> None:
        before = np.concatenate((self._last, windows[:-1]))
        # The first window's zeros before it are no symbols, so it always begins new n-grams.
        is_new = np.logical_or.accumulate(windows != before, axis=1)
        contexts = np.zeros(len(windows), np.int64)
        for n, order in enumerate(self.orders):
            present = windows[:, n] != 0
            begins = is_new[:, n] & present
            numbers = order.n_seen - 1 + np.cumsum(begins)
            starts = np.flatnonzero(begins)
            sums = np.concatenate(([0], np.cumsum(np.where(present, counts, 0))))
            until = np.append(starts, len(windows))
            groups = np.diff(sums[until])
            columns = [windows[starts, n] - 1, groups, numbers[starts], contexts[starts]]
            head = int(sums[until[0]])
            held = self._open[n]
            if held is not None:
                first = (held[0], held[1] + head, *held[2:])
                columns = [np.concatenate(([value], column)) for value, column in zip(first, columns, strict=True)]
            self._open[n] = self._close_all_but_last(order, columns)
            order.n_seen += len(starts)
            contexts = numbers
        self._last = windows[-1:]

    def _close_all_but_last(self, order: StoredOrder, columns: list[Column]) -> tuple[int, int, int, int] | None:
        if not len(columns[0]):
            return None
        self._append(order, [column[:-1] for column in columns])
        last_id, count, number, context = (int(column[-1]) for column in columns)
        return last_id, count, number, context

    def _append(self, order: StoredOrder, columns: list[Column]) -> None:
        kept = columns[1] >= self._min_count
        order.append(*(column[kept] for column in columns))

    def finish(self) -> None:
        """No more windows."""
        for n, held in enumerate(self._open):
            if held is not None:
                self._append(self.orders[n], [np.asarray([value]) for value in held])
        self._open = [None] * len(self.orders)
