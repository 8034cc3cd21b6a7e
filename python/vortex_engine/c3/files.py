"""Whole reads, whole writes and atomic replacement: a reader sees the old file or the new one, never half of either."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

from vortex_engine import _native

COPY_BYTES = 4 << 20  # buffer of streamed copies and checksums


class ShortReadError(EOFError):
    """A file ended before the bytes that were promised."""


def read_into(fd: int, view: memoryview, offset: int) -> None:
    """Fill `view` from `offset` of the file; ShortReadError when the file ends before."""
    done = 0
    while done < len(view):
        n_read = os.preadv(fd, [view[done:]], offset + done)
        if n_read == 0:
            raise ShortReadError(f"the file ends at byte {offset + done}, {len(view) - done} bytes early")
        done += n_read


def read_exactly(fd: int, n_bytes: int, offset: int) -> bytes:
    """`n_bytes` from `offset` of the file."""
    buffer = bytearray(n_bytes)
    read_into(fd, memoryview(buffer), offset)
    return bytes(buffer)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset` of the file."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)


def write_parts(fd: int, parts: Iterable[bytes | memoryview], offset: int) -> None:
    """Write all of `parts`, one after the other, at `offset` of the file."""
    for part in parts:
        write_all(fd, part, offset)
        offset += len(part)


def read_ranges(fd: int, offset: int, n_bytes: int) -> Iterator[memoryview]:
    """The bytes `[offset, offset + n_bytes)` of the file in pieces of one reused buffer."""
    buffer = memoryview(bytearray(min(COPY_BYTES, n_bytes)))
    while n_bytes > 0:
        piece = buffer[: min(len(buffer), n_bytes)]
        read_into(fd, piece, offset)
        yield piece
        offset += len(piece)
        n_bytes -= len(piece)


def crc_of_range(fd: int, offset: int, n_bytes: int) -> int:
    """crc32c of `[offset, offset + n_bytes)` of the file."""
    crc = 0
    for piece in read_ranges(fd, offset, n_bytes):
        crc = _native.crc32c(piece, crc)
    return crc


@contextlib.contextmanager
def open_fd(path: Path, flags: int = os.O_RDONLY, mode: int = 0o666) -> Generator[int]:
    """A file descriptor that is closed at the end."""
    fd = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable; the bytes of its files need their own fsync."""
    with open_fd(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open_fd(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
            write_all(fd, data, 0)
            os.fsync(fd)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of a file and make them durable; not its permissions, which belong to the machine it came from."""
    with open_fd(source) as source_fd, open_fd(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as target_fd:
        offset = 0
        for piece in read_ranges(source_fd, 0, os.fstat(source_fd).st_size):
            write_all(target_fd, piece, offset)
            offset += len(piece)
        os.fsync(target_fd)
