"""Counting the n-grams of a corpus into a table file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vortex_engine.errors import BudgetError, ModelConfigError
from vortex_engine.grams.corpus import PIECE_CHARS, Piece, corpus_files, read_pieces
from vortex_engine.grams.document import MAX_N, MAX_VOCAB_SIZE, OrderBlocks, TableFacts, write_document
from vortex_engine.grams.files import check_new, table_suffix, write_table, writing
from vortex_engine.grams.keys import WindowKeys
from vortex_engine.grams.orders import OrderBuilder
from vortex_engine.grams.runs import KeyCounter
from vortex_engine.profile import parse_bytes

__all__ = ["MIN_MEMORY_BYTES", "BuildReport", "CorpusTokenizer", "build_grams"]

MIN_MEMORY_BYTES = 64 << 10
_BATCH_TEXTS = 256

Progress = Callable[[int, int], None]


class CorpusTokenizer(Protocol):
    """What counting asks of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """The largest id and one."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts, without special tokens around them."""
        ...


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What was counted; `n_grams[i]` are the distinct (i + 1)-grams in the table."""

    target: str
    n_files: int
    n_documents: int
    n_tokens: int
    n_grams: tuple[int, ...]
    corpus_bytes: int
    table_bytes: int
    n_runs: int  # sorted runs that were spilled to disk
    seconds: float

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def build_grams(
    corpus: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    tokenizer: CorpusTokenizer,
    tokenizer_sha256: str,
    n: int = 3,
    min_count: int = 1,
    memory: int | str = "256MiB",
    progress: Progress | None = None,
) -> BuildReport:
    """Count the n-grams of a corpus exactly and write a table; equal corpora give equal bytes.

    N-grams do not reach over the end of a document. Sorted runs go to files without a name beside the target.

    Args:
        corpus: directory of UTF-8 text and of .jsonl with a "text" field, both plain or gzipped; or one such file.
        target: new file, `.json` or `.scxq2`.
        tokenizer_sha256: of its tokenizer.json, kept in the table.
        min_count: n-grams that occur less often are left out.
        memory: bytes of the buffers that sort and merge; reading and tokenising take about 32 MiB more.
        progress: called with bytes of the corpus that are read, and all.

    Raises:
        ModelConfigError: an empty or damaged corpus; names the file and the line.
        TargetExistsError: the target exists.
        BudgetError: `memory` is below 64 KiB.
        MachineError: the disk is full or cannot be read.
        ValueError: another argument is wrong.
    """
    started = time.perf_counter()
    corpus, target = Path(corpus), Path(target)
    memory_bytes = _check(target, n=n, min_count=min_count, memory=memory, vocab_size=tokenizer.vocab_size)
    files = corpus_files(corpus)
    total_bytes = sum(path.stat().st_size for path in files)
    keys = WindowKeys(n, tokenizer.vocab_size + 1)
    texts = _Texts(files, (lambda done: progress(done, total_bytes)) if progress else None)
    with writing(target), KeyCounter(keys.n_words, memory_bytes=memory_bytes, folder=target.parent) as counter:
        n_tokens = _count(texts, tokenizer, keys, counter)
        if not n_tokens:
            raise ModelConfigError(f"[grams] the corpus {corpus} has no tokens; give text to count")
        with OrderBuilder(n, min_count=min_count, folder=target.parent) as builder:
            for rows in counter.rows():
                builder.push(keys.unpack(rows[:, :-1]), rows[:, -1].astype(np.int64))
            builder.finish()
            facts = TableFacts(n, min_count, tokenizer_sha256, tokenizer.vocab_size, n_tokens, texts.n_documents)
            contexts = [None, *builder.orders]
            blocks = (
                OrderBlocks(order.children(context), order.ids(), order.counts())
                for context, order in zip(contexts, builder.orders, strict=False)
            )
            write_table(target, write_document(facts, blocks))
            n_grams = tuple(order.n_grams for order in builder.orders)
    return BuildReport(
        target=str(target),
        n_files=len(files),
        n_documents=texts.n_documents,
        n_tokens=n_tokens,
        n_grams=n_grams,
        corpus_bytes=total_bytes,
        table_bytes=target.stat().st_size,
        n_runs=counter.n_runs,
        seconds=time.perf_counter() - started,
    )


def _check(target: Path, *, n: int, min_count: int, memory: int | str, vocab_size: int) -> int:
    table_suffix(target)
    if not 1 <= n <= MAX_N:
        raise ValueError(f"[grams] n must lie between 1 and {MAX_N}, got {n}")
    if min_count < 1:
        raise ValueError(f"[grams] min_count must be at least 1, got {min_count}")
    if not 1 <= vocab_size <= MAX_VOCAB_SIZE:
        raise ValueError(f"[grams] vocab_size must lie between 1 and {MAX_VOCAB_SIZE}, got {vocab_size}")
    memory_bytes = parse_bytes(memory, "memory")
    if memory_bytes < MIN_MEMORY_BYTES:
        raise BudgetError(f"[grams] memory must be at least {MIN_MEMORY_BYTES} bytes, got {memory_bytes}")
    check_new(target)
    return memory_bytes


class _Texts:
    """The pieces of all files in batches that the tokenizer takes at once."""

    def __init__(self, files: Sequence[Path], progress: Callable[[int], None] | None) -> None:
        self._files = files
        self._progress = progress
        self.n_documents = 0

    def batches(self) -> Iterator[list[Piece]]:
        batch: list[Piece] = []
        n_chars = 0
        for piece in self._pieces():
            batch.append(piece)
            n_chars += len(piece.text)
            if n_chars >= PIECE_CHARS or len(batch) == _BATCH_TEXTS:
                yield batch
                batch, n_chars = [], 0
        yield batch

    def _pieces(self) -> Iterator[Piece]:
        done_bytes = 0

        def on_read(n_bytes: int) -> None:
            if self._progress is not None:
                self._progress(done_bytes + n_bytes)

        for path in self._files:
            for piece in read_pieces(path, on_read):
                self.n_documents += piece.ends
                yield piece
            done_bytes += path.stat().st_size


def _count(texts: _Texts, tokenizer: CorpusTokenizer, keys: WindowKeys, counter: KeyCounter) -> int:
    """Count all windows; returns the number of tokens."""
    n_tokens = 0
    # Windows that the next piece of the same document completes begin in these symbols.
    held = np.empty(0, np.uint32)
    filling = np.zeros(keys.n - 1, np.uint32)
    for batch in texts.batches():
        parts: list[NDArray[np.uint32]] = [held]
        for ids, piece in zip(tokenizer.encode_texts([piece.text for piece in batch]), batch, strict=True):
            n_tokens += len(ids)
            parts.append(np.asarray(ids, np.uint32) + np.uint32(1))
            if piece.ends:
                parts.append(filling)
        symbols = np.concatenate(parts)
        windows = keys.pack(symbols)
        counter.add(windows[symbols[: len(windows)] != 0])
        held = symbols[len(windows) :]
    return n_tokens
