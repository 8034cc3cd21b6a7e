"""A corpus as pieces of text: UTF-8 files, and JSON lines with a "text" field, both plain or gzipped."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from vortex_engine.errors import MachineError, ModelConfigError

__all__ = ["PIECE_CHARS", "Piece", "corpus_files", "read_pieces"]

# Longer texts are tokenised in pieces, so that a file of any size takes little memory.
PIECE_CHARS = 1 << 17
_READ_BYTES = 1 << 17
_MAX_LINE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one document; `ends` marks its last piece."""

    text: str
    ends: bool


def corpus_files(corpus: Path) -> list[Path]:
    """All files below a directory by name, without hidden ones and links to directories; a file stands for itself.

    Raises:
        ModelConfigError: there is nothing, or nothing to read.
    """
    if corpus.is_file():
        return [corpus]
    if not corpus.is_dir():
        raise ModelConfigError(f"[grams] there is no corpus {corpus}; give a directory of text or .jsonl files")

    def refuse(error: OSError) -> None:
        raise ModelConfigError(f"[grams] cannot list {error.filename}: {error.strerror}") from error

    found: list[Path] = []
    for folder, folders, names in os.walk(corpus, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = (Path(folder, name) for name in sorted(names) if not name.startswith("."))
        found += [path for path in files if path.is_file()]
    if not found:
        raise ModelConfigError(f"[grams] the corpus {corpus} has no files; put text or .jsonl files into it")
    return found


def read_pieces(path: Path, on_read: Callable[[int], None]) -> Iterator[Piece]:
    """The documents of one file in pieces of at most `PIECE_CHARS`, cut after a line where there is one.

    A file is one document; of `*.jsonl` and `*.jsonl.gz` every line is one, in its field "text".

    Args:
        on_read: told how many bytes of the file have been read.

    Raises:
        ModelConfigError: damaged gzip, bytes that are no UTF-8, or a line that is no such JSON; says which.
        MachineError: the file cannot be read.
    """
    with _reading(path), path.open("rb") as raw:
        packed = path.suffix == ".gz"
        handle = cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb")) if packed else raw
        documents = _lines(handle, path) if path.name.endswith((".jsonl", ".jsonl.gz")) else [_text(handle, path)]
        for document in documents:
            for piece in _cut(document):
                on_read(raw.tell())
                yield piece


@contextmanager
def _reading(path: Path) -> Generator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ModelConfigError(f"[grams] {path} is no whole gzip file: {error}; copy it again") from error
    except (FileNotFoundError, PermissionError) as error:
        raise ModelConfigError(f"[grams] {path} cannot be opened: {error.strerror}") from error
    except OSError as error:
        if isinstance(error, MachineError):
            raise
        raise MachineError(f"[grams] cannot read {path}: {error}") from error


def _text(handle: IO[bytes], path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    n_read = 0
    data = b"more"
    while data:
        data = handle.read(_READ_BYTES)
        n_read += len(data)
        try:
            yield decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            at = n_read - len(error.object) + error.start
            raise ModelConfigError(
                f"[grams] {path} is not UTF-8: byte {at} is 0x{error.object[error.start]:02x}; "
                "convert the file, or take it out of the corpus"
            ) from error


def _lines(handle: IO[bytes], path: Path) -> Iterator[Iterator[str]]:
    number = 0
    while line := handle.readline(_MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > _MAX_LINE_BYTES:
            raise ModelConfigError(f"[grams] {path}, line {number}: longer than {_MAX_LINE_BYTES} bytes; split it")
        if line.strip():
            yield iter([_text_of_line(line, f"[grams] {path}, line {number}")])


def _text_of_line(line: bytes, where: str) -> str:
    try:
        row: object = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ModelConfigError(f"{where}: not JSON: {error}; correct the line or take it out") from error
    text = cast("dict[str, object]", row).get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise ModelConfigError(f'{where}: not an object with a string "text"; correct the line or take it out')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ModelConfigError(f"{where}: half of a surrogate pair at character {error.start} of its text") from error
    return text


def _cut(document: Iterator[str]) -> Iterator[Piece]:
    held = ""
    for text in document:
        held += text
        start = 0
        while len(held) - start > PIECE_CHARS:
            end = _cut_place(held, start)
            yield Piece(held[start:end], ends=False)
            start = end
        held = held[start:]
    yield Piece(held, ends=True)


def _cut_place(text: str, start: int) -> int:
    """Behind the last end of a line between two characters that are no space, where word splitters cut anyway."""
    at = start + PIECE_CHARS
    while (at := text.rfind("\n", start + 1, at)) > 0:
        if not text[at - 1].isspace() and not text[at + 1].isspace():
            return at + 1
    return start + PIECE_CHARS
