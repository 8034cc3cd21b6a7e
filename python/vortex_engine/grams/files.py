"""New files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from vortex_engine.errors import MachineError, ModelConfigError, TargetExistsError
from vortex_engine.grams.scxq2 import pack_scxq2

__all__ = ["SUFFIXES", "check_new", "table_suffix", "write_table", "writing"]

SUFFIXES = (".json", ".scxq2")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def table_suffix(path: Path) -> str:
    """The suffix of a table, which says how it is written; ValueError for any other."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"[grams] a table's name ends in {' or '.join(SUFFIXES)}, got {path.name!r}")
    return path.suffix


def check_new(path: Path) -> None:
    """Raise TargetExistsError where `path` is taken, ModelConfigError where its directory is missing."""
    if os.path.lexists(path):
        raise TargetExistsError(f"[grams] {path} exists; nothing is overwritten: move it away or give another name")
    if not path.parent.is_dir():
        raise ModelConfigError(f"[grams] there is no directory {path.parent} to write {path.name} to; make it first")


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Errors of writing `path`, or spills beside it, become MachineError."""
    try:
        yield
    except OSError as error:
        if isinstance(error, MachineError | TargetExistsError):
            raise
        reason = "the disk is full: free some space" if error.errno in _NO_ROOM else str(error)
        raise MachineError(f"[grams] cannot write {path}: {reason}; nothing is kept") from error


def write_table(path: Path, parts: Iterable[bytes]) -> None:
    """Write the JSON document that `parts` make up to a new table.

    Raises:
        TargetExistsError: the file exists.
        MachineError: it cannot be written.
    """
    with _replace_new(path) as handle:
        if table_suffix(path) == ".scxq2":
            pack_scxq2(parts, handle.write)
        else:
            handle.writelines(parts)


@contextmanager
def _replace_new(path: Path) -> Generator[IO[bytes]]:
    """A file that is written beside `path`, made durable and renamed to it at the end; removed after any error."""
    check_new(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            with temporary.open("wb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            check_new(path)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
