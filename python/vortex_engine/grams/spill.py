"""Growing arrays on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Spill"]

_BLOCK_ROWS = 1 << 13


class Spill:
    """Rows of a growing array, [N] or [N, columns], in a file without a name: a killed process leaves none behind.

    Args:
        columns: () for [N], (columns,) for [N, columns].
    """

    def __init__(self, folder: Path, dtype: type[np.generic], columns: tuple[int, ...] = ()) -> None:
        # Open until `close`, beyond one block of code.
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._dtype = np.dtype(dtype)
        self._columns = columns
        self._row_bytes = self._dtype.itemsize * int(np.prod(columns))

    def append(self, rows: NDArray[Any]) -> None:
        """Write rows at the end."""
        if len(rows):
            self._file.write(np.ascontiguousarray(rows, self._dtype).data.cast("B"))

    def rewind(self) -> None:
        """Read from the beginning."""
        self._file.seek(0)

    def read(self, n_rows: int) -> NDArray[Any]:
        """The next rows, at most `n_rows`; none at the end."""
        return np.frombuffer(self._file.read(n_rows * self._row_bytes), self._dtype).reshape(-1, *self._columns)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """All rows, some thousands at a time."""
        self.rewind()
        while len(rows := self.read(_BLOCK_ROWS)):
            yield rows

    def view(self) -> NDArray[Any]:
        """All rows, mapped."""
        self._file.flush()
        if not self._file.seek(0, 2):
            return np.empty((0, *self._columns), self._dtype)
        return np.memmap(self._file, self._dtype, mode="r").reshape(-1, *self._columns)

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()
