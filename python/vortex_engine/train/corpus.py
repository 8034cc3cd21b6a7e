"""Text of files and directories as one mapped file of token ids, made once and used again while nothing changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vortex_engine.grams.corpus import PIECE_CHARS, Piece, corpus_files, read_pieces
from vortex_engine.train.codec import TextCodec
from vortex_engine.train.files import replace_atomically, write_text_atomically

__all__ = ["TokenFile", "tokenise"]

_FORMAT = 1
_BATCH_CHARS = 8 * PIECE_CHARS


@dataclass(frozen=True)
class _Counts:
    n_tokens: int
    n_documents: int
    text_bytes: int
    fingerprint: str


@dataclass(frozen=True, eq=False)
class TokenFile:
    """Tokens of a corpus: `<end of text> document <end of text> document …`.

    Attributes:
        ids: [n_tokens] uint16 or uint32, mapped read-only.
        fingerprint: BLAKE2b of the ids, hexadecimal; the same text and tokenizer have the same.
    """

    ids: NDArray[np.unsignedinteger]
    n_documents: int
    text_bytes: int
    fingerprint: str


def tokenise(
    paths: Sequence[Path], codec: TextCodec, cache: Path, progress: Callable[[str], None] | None = None
) -> TokenFile:
    """Tokenise `paths` into `cache`, unless it was done for the same files (name, size, time) and tokenizer.

    Args:
        progress: told the name of every file before it is read.

    Raises:
        ModelConfigError: a path that is missing or text that cannot be read.
    """
    files = [(root, file) for root in paths for file in corpus_files(root)]
    path = cache / f"{_cache_key(files, codec)}.u{8 * codec.dtype.itemsize}"
    counts_path = path.with_suffix(".json")
    counts = _read_counts(counts_path, path, codec.dtype.itemsize)
    if counts is None:
        cache.mkdir(parents=True, exist_ok=True)
        counts = _pack(files, codec, path, progress)
        # Last, so that its presence says that the tokens are whole.
        write_text_atomically(counts_path, json.dumps(asdict(counts)))
    ids = np.memmap(path, dtype=codec.dtype, mode="r")
    return TokenFile(ids, counts.n_documents, counts.text_bytes, counts.fingerprint)


def _cache_key(files: Sequence[tuple[Path, Path]], codec: TextCodec) -> str:
    facts: list[Any] = [_FORMAT, codec.fingerprint]
    for root, file in files:
        status = file.stat()
        facts.append([str(file.relative_to(root.parent)), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def _read_counts(counts_path: Path, path: Path, item_bytes: int) -> _Counts | None:
    if not (counts_path.exists() and path.exists()):
        return None
    counts = _Counts(**json.loads(counts_path.read_text(encoding="utf-8")))
    return counts if path.stat().st_size == counts.n_tokens * item_bytes else None


def _pack(
    files: Sequence[tuple[Path, Path]], codec: TextCodec, path: Path, progress: Callable[[str], None] | None
) -> _Counts:
    digest = hashlib.blake2b(codec.dtype.str.encode(), digest_size=16)
    n_tokens = n_documents = text_bytes = 0
    separator = np.array([codec.end_of_text_id], dtype=codec.dtype)

    def write(temporary: Path) -> None:
        nonlocal n_tokens, n_documents, text_bytes
        begins = True
        with temporary.open("wb") as out:
            for batch in _batches(files, progress):
                encoded = codec.encode([piece.text for piece in batch])
                for piece, ids in zip(batch, encoded, strict=True):
                    part = np.concatenate((separator, ids)) if begins else ids
                    data = part.astype(codec.dtype).tobytes()
                    out.write(data)
                    digest.update(data)
                    n_tokens += part.size
                    n_documents += begins
                    text_bytes += len(piece.text.encode())
                    begins = piece.ends

    replace_atomically(path, write)
    return _Counts(n_tokens, n_documents, text_bytes, digest.hexdigest())


def _batches(files: Sequence[tuple[Path, Path]], progress: Callable[[str], None] | None) -> Iterator[list[Piece]]:
    """Pieces of all documents, so many at once that all cores have some to encode."""
    held: list[Piece] = []
    n_chars = 0
    for _, file in files:
        if progress is not None:
            progress(file.name)
        for piece in read_pieces(file, lambda n_bytes: None):
            held.append(piece)
            n_chars += len(piece.text)
            if n_chars >= _BATCH_CHARS:
                yield held
                held, n_chars = [], 0
    if held:
        yield held
