"""Counts and probabilities of n-grams in memory."""

from __future__ import annotations

import hashlib
import os
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vortex_engine.errors import MachineError, ModelConfigError
from vortex_engine.grams.document import Order, OrderBlocks, TableFacts, contexts_of, parse_document, write_document
from vortex_engine.grams.files import table_suffix, write_table
from vortex_engine.grams.scxq2 import unpack_scxq2
from vortex_engine.profile import parse_bytes

__all__ = ["MAX_BYTES", "GramTable", "check_tokenizer", "tokenizer_sha256"]

MAX_BYTES = 256 << 20


class GramTable:
    """Exact counts of the n-grams of a corpus, n = 1 … `facts.n`, that occur at least `facts.min_count` times.

    Immutable, so threads may share it. `orders[n - 1]` holds the n-grams of n tokens as a trie in arrays.
    """

    def __init__(self, facts: TableFacts, orders: Sequence[Order]) -> None:
        self.facts = facts
        # bisect finds an id in array.array in a fifth of the time of one call of numpy.
        self._ids = [_array(order.ids) for order in orders]
        self._counts = [_array(order.counts) for order in orders]
        self._starts = [_array(order.starts) for order in orders]
        ranked = [_by_falling_count(order) for order in orders]
        self._ranked_ids = [_array(ids) for ids, _ in ranked]
        self._ranked_counts = [_array(counts) for _, counts in ranked]
        arrays = zip(self._ids, self._counts, self._starts, strict=True)
        self.orders = tuple(Order(*map(np.asarray, columns)) for columns in arrays)
        self._unigrams = {token_id: place for place, token_id in enumerate(self._ids[0])}

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, max_bytes: int | str = MAX_BYTES) -> GramTable:
        """Read a `.json` or `.scxq2` table; loading takes about ten times the bytes of its JSON.

        Args:
            max_bytes: the most bytes of JSON that are read or unpacked.

        Raises:
            ModelConfigError: there is no such file, it is damaged, of another format or larger than `max_bytes`.
            MachineError: it cannot be read.
            ValueError: neither suffix, or `max_bytes` is no byte quantity.
        """
        path = Path(path)
        limit = parse_bytes(max_bytes, "max_bytes")
        packed = table_suffix(path) == ".scxq2"
        try:
            with path.open("rb") as handle:
                data = unpack_scxq2(handle, name=str(path), max_bytes=limit) if packed else handle.read(limit + 1)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
            raise ModelConfigError(f"[grams] the table {path} cannot be opened: {error.strerror}") from error
        except OSError as error:
            raise MachineError(f"[grams] cannot read {path}: {error}") from error
        if len(data) > limit:
            raise ModelConfigError(
                f"[grams] {path} is larger than max_bytes = {limit}; give more, or build a smaller table "
                "(a higher --min-count or a lower --n)"
            )
        return cls(*parse_document(data, str(path)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to a new `.json` or `.scxq2` file, which appears by rename.

        Raises:
            TargetExistsError: the file exists.
            MachineError: it cannot be written.
        """
        write_table(Path(path), write_document(self.facts, map(OrderBlocks.of, self.orders)))

    def counts(self, ngram: Sequence[int]) -> int:
        """How often the ids follow each other in the corpus; 0 below `min_count`; of no ids, the tokens of the corpus.

        Raises:
            ValueError: more ids than the table's n.
        """
        if len(ngram) > self.facts.n:
            raise ValueError(f"[grams] the table has n-grams of up to {self.facts.n} ids, got {len(ngram)}")
        return self._count_at(len(ngram), self._find(ngram))

    def probability(self, ngram: Sequence[int]) -> float:
        """count(ngram) / count(ngram without its last id), the maximum likelihood estimate, without smoothing.

        An unseen n-gram has 0. What is missing to 1 over all last ids is the share of ends of documents, and of n-grams
        below `min_count`.

        Raises:
            ValueError: no ids, or more than the table's n.
        """
        if not 0 < len(ngram) <= self.facts.n:
            raise ValueError(f"[grams] an n-gram of this table has 1 to {self.facts.n} ids, got {len(ngram)}")
        count = self._count_at(len(ngram), self._find(ngram))
        return count / self._count_at(len(ngram) - 1, self._find(ngram[:-1])) if count else 0.0

    def next_ids(self, context: Sequence[int], limit: int = 16) -> list[tuple[int, float]]:
        """What most likely follows, at most `limit` (id, probability), falling; equal ones by id.

        The longest end of `context` that is followed by anything in the table decides alone: this is for drafting, and
        probabilities of ends of different lengths are not one distribution.
        """
        longest = self.facts.n - 1
        tail = context[-longest:] if longest else ()
        for start in range(len(tail) + 1):
            place = self._find(tail[start:])
            if place < 0:
                continue
            length = len(tail) - start
            starts = self._starts[length]
            first, end = starts[place], starts[place + 1]
            if first == end:
                continue
            end = min(end, first + limit)
            total = self._counts[length - 1][place] if length else self.facts.n_tokens
            ids, counts = self._ranked_ids[length][first:end], self._ranked_counts[length][first:end]
            return [(token_id, count / total) for token_id, count in zip(ids, counts, strict=True)]
        return []

    def _find(self, ngram: Sequence[int]) -> int:
        """The number of an n-gram in its order, -1 where it is unknown; 0 for no ids."""
        if not ngram:
            return 0
        place = self._unigrams.get(ngram[0], -1)
        for n in range(1, len(ngram)):
            if place < 0:
                break
            ids, starts = self._ids[n], self._starts[n]
            end = starts[place + 1]
            place = bisect_left(ids, ngram[n], starts[place], end)
            if place == end or ids[place] != ngram[n]:
                return -1
        return place

    def _count_at(self, length: int, place: int) -> int:
        if place < 0:
            return 0
        return self._counts[length - 1][place] if length else self.facts.n_tokens


def _array(values: NDArray[Any]) -> array[int]:
    return array(values.dtype.char, values.tobytes())


def _by_falling_count(order: Order) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    ranks = np.lexsort((order.ids, -order.counts, contexts_of(order)))
    return order.ids[ranks], order.counts[ranks]


def tokenizer_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a tokenizer.json, which tells whether two ids mean the same.

    Args:
        path: the file, or the model directory that has it.

    Raises:
        ModelConfigError: it cannot be read.
    """
    path = Path(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelConfigError(f"[grams] the tokenizer {path} cannot be read: {error.strerror}") from error


def check_tokenizer(table: GramTable, path: str | os.PathLike[str]) -> None:
    """Check that a table was counted with the ids of a model.

    Args:
        path: the model's tokenizer.json, or its directory.

    Raises:
        ModelConfigError: it was counted with another tokenizer, or the model's cannot be read.
    """
    found = tokenizer_sha256(path)
    if found != table.facts.tokenizer_sha256:
        raise ModelConfigError(
            f"[grams] the table was counted with another tokenizer (SHA-256 {table.facts.tokenizer_sha256[:12]}…) than "
            f"{path} (SHA-256 {found[:12]}…): their ids differ; build it again with vortex grams build --tokenizer DIR"
        )
