"""The journal of a packing in progress: one line for every finished matrix, so that an interrupted one can go on.

A line is the crc32c of the rest, a space, and JSON. The first line is the fingerprint of source and settings; a line
that was torn by a kill ends the journal.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vortex_engine import _native
from vortex_engine.c3.files import write_all


@dataclass(frozen=True, slots=True)
class MatrixRecord:
    """A matrix that is completely in its shard."""

    name: str
    shard: str
    offset: int  # in the shard file
    n_bytes: int  # of its tiles tensor
    crc32c: int  # of its tiles tensor
    n_escapes: int
    index: bytes  # its index tensor

    def to_line(self) -> bytes:
        """The journal's line."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        return _line({**fields, "index": base64.b64encode(self.index).decode("ascii")})


_FIELDS = ("name", "shard", "offset", "n_bytes", "crc32c", "n_escapes")


class Journal:
    """An append-only file; every append reaches the operating system before it returns."""

    def __init__(self, path: Path, fingerprint: dict[str, object], records: list[MatrixRecord]) -> None:
        """Start the journal at `path` anew with what is known already."""
        self._path = path
        temporary = path.with_suffix(".tmp")
        self._fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._end = 0
        self._append(_line(fingerprint))
        for record in records:
            self.append(record)
        temporary.replace(path)

    def append(self, record: MatrixRecord) -> None:
        """Note a finished matrix."""
        self._append(record.to_line())

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _append(self, line: bytes) -> None:
        write_all(self._fd, line, self._end)
        self._end += len(line)


def read_journal(path: Path) -> tuple[dict[str, object], list[MatrixRecord]]:
    """Fingerprint and records of a journal, up to its first damaged line; empty when there is none."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}, []
    documents: list[dict[str, object]] = []
    for line in lines[:-1]:
        crc, _, text = line.partition(b" ")
        if crc != b"%08x" % _native.crc32c(text):
            break
        documents.append(json.loads(text))
    if not documents:
        return {}, []
    return documents[0], [_record(document) for document in documents[1:]]


def _record(document: dict[str, object]) -> MatrixRecord:
    # The line's crc vouches for the types.
    fields: dict[str, Any] = {name: document[name] for name in _FIELDS}
    return MatrixRecord(**fields, index=base64.b64decode(str(document["index"])))


def _line(document: dict[str, object]) -> bytes:
    text = json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")
    return b"%08x %s\n" % (_native.crc32c(text), text)
