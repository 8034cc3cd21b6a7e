"""A tokenizer of bytes, and the slow way to count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from vortex_engine.grams import BuildReport, build_grams

SHA = "ab" * 32


class ByteTokenizer:
    """Every byte an id, so that a text of any bytes has known ids."""

    vocab_size = 256

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]


def _count_slowly(documents: Iterable[Sequence[int]], n: int) -> list[Counter[tuple[int, ...]]]:
    """Counts of all n-grams, n = 1 … n: the specification."""
    counts: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(n)]
    for ids in documents:
        for length, counter in enumerate(counts, start=1):
            counter.update(tuple(ids[i : i + length]) for i in range(len(ids) - length + 1))
    return counts


@pytest.fixture(scope="session")
def count_slowly() -> Callable[[Iterable[Sequence[int]], int], list[Counter[tuple[int, ...]]]]:
    return _count_slowly


@pytest.fixture(scope="session")
def byte_tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., BuildReport]:
    def run(corpus: Path, name: str = "table.json", **options: object) -> BuildReport:
        arguments = {"tokenizer": ByteTokenizer(), "tokenizer_sha256": SHA, **options}
        return build_grams(corpus, tmp_path / name, **arguments)  # pyright: ignore

    return run
