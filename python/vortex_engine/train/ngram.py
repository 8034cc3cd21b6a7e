"""Interpolated Kneser-Ney n-grams over any stream of small integers, counted with sorted arrays."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# 32 M keys of 8 bytes a piece: what one counting pass sorts at once.
_COUNT_PIECE = 1 << 25

Symbols = NDArray[np.uint8] | NDArray[np.uint16]
Keys = NDArray[np.uint64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class _Table:
    """Counts of one order: sorted n-gram keys, and per context its total and its number of distinct successors."""

    keys: Keys
    counts: Counts
    contexts: Keys
    totals: Counts
    n_successors: Counts
    discount: float


class KneserNeyNgram:
    """An n-gram model with one absolute discount per order.

    The highest order uses counts, every lower order the number of distinct left neighbours; the discount is
    n₁ / (n₁ + 2 n₂) of its order, and the first order is interpolated with the uniform distribution.

    Args:
        symbols: training stream, [N] uint8|uint16, values below `n_symbols`.
        n_symbols: alphabet size; `order` symbols must fit 64 bits.

    Source: Chen and Goodman 1999, "An empirical study of smoothing techniques", equations 22 to 24.
    """

    def __init__(self, symbols: Symbols, *, n_symbols: int, order: int) -> None:
        self._n_symbols = n_symbols
        self._order = order
        self._bits = (n_symbols - 1).bit_length()
        if order * self._bits > 64:
            raise ValueError(f"[KneserNeyNgram] order * bits of a symbol must be at most 64, got {order * self._bits}")
        keys, counts = _count(self._pieces(symbols))
        tables = [self._table(keys, counts)]
        for length in range(order - 1, 0, -1):
            # Distinct n-grams with their first symbol dropped: how many left neighbours each shorter n-gram has.
            mask = np.uint64((1 << (length * self._bits)) - 1)
            keys, counts = np.unique(keys & mask, return_counts=True)
            tables.append(self._table(keys, counts.astype(np.int64)))
        self._tables = tables[::-1]

    def bits(self, symbols: Symbols) -> NDArray[np.float64]:
        """Cost in bits of every symbol given up to order - 1 symbols before it: [N] float64.

        The first symbols of the stream see zeros before them.
        """
        probability = np.full(len(symbols), 1.0 / self._n_symbols)
        grams = _sliding_keys(symbols, order=self._order, bits=self._bits)
        for length, table in enumerate(self._tables, start=1):
            keys = grams & np.uint64((1 << (length * self._bits)) - 1)
            count = _lookup(table.keys, table.counts, keys)
            context = keys >> np.uint64(self._bits)
            total = _lookup(table.contexts, table.totals, context)
            successors = _lookup(table.contexts, table.n_successors, context)
            seen = total > 0
            kept = np.maximum(count - table.discount, 0.0) + table.discount * successors * probability
            probability = np.where(seen, kept / np.maximum(total, 1), probability)
        return -np.log2(probability)

    def _pieces(self, symbols: Symbols) -> Iterator[Keys]:
        for start in range(0, len(symbols), _COUNT_PIECE):
            # Each piece begins with the context of its first n-gram, which the piece before has counted.
            reach = max(0, start - (self._order - 1))
            grams = _sliding_keys(symbols[reach : start + _COUNT_PIECE], order=self._order, bits=self._bits)
            yield grams[start - reach :]

    def _table(self, keys: Keys, counts: Counts) -> _Table:
        context_of_key = keys >> np.uint64(self._bits)
        starts = np.flatnonzero(np.concatenate(([True], context_of_key[1:] != context_of_key[:-1])))
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        return _Table(
            keys=keys,
            counts=counts,
            contexts=context_of_key[starts],
            totals=np.add.reduceat(counts, starts),
            n_successors=np.diff(np.append(starts, len(keys))),
            # Without singletons the estimate is 0 and would leave nothing for unseen successors.
            discount=once / (once + 2 * twice) if once else 0.5,
        )


def _sliding_keys(symbols: Symbols, *, order: int, bits: int) -> Keys:
    """The n-gram that ends at each position, first symbol in the highest bits; zeros before the stream."""
    keys = np.zeros(len(symbols), dtype=np.uint64)
    for back in range(min(order, len(symbols))):
        shifted = symbols[: len(symbols) - back].astype(np.uint64) << np.uint64(back * bits)
        keys[back:] |= shifted
    return keys


def _count(pieces: Iterator[Keys]) -> tuple[Keys, Counts]:
    """Distinct keys of all pieces, sorted, with how often each occurs."""
    keys = np.empty(0, dtype=np.uint64)
    counts = np.empty(0, dtype=np.int64)
    for piece in pieces:
        new_keys, new_counts = np.unique(piece, return_counts=True)
        merged = np.concatenate((keys, new_keys))
        order = np.argsort(merged, kind="stable")
        merged = merged[order]
        merged_counts = np.concatenate((counts, new_counts.astype(np.int64)))[order]
        starts = np.flatnonzero(np.concatenate(([True], merged[1:] != merged[:-1])))
        keys, counts = merged[starts], np.add.reduceat(merged_counts, starts)
    return keys, counts


def _lookup(keys: Keys, values: Counts, wanted: Keys) -> Counts:
    """Values at the wanted keys, 0 where a key is absent."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
