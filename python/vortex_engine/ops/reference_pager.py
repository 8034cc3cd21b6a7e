"""Where the reference backend's weights come from: tiles read and decoded one at a time, every time they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vortex_engine import _native
from vortex_engine.errors import BudgetError, CorruptTileError
from vortex_engine.ops import reference_codec

__all__ = ["ReferenceMatrix", "ReferencePager"]

_ALIGNMENT = 4096
_INDEX_COLUMNS = 8


@dataclass(frozen=True)
class DecodedTile:
    """The float32 weights of rows row0.. and columns col0.. of a matrix."""

    row0: int
    col0: int
    weights: NDArray[np.float32]
    codec: int
    read_bytes: int


class ReferenceMatrix:
    """One paged matrix [rows, cols] of a shard, decoded lazily tile by tile.

    Args:
        path: the shard; base_offset: where `<name>.c3` starts in it; index: `<name>.c3_index`, uint64 [n_tiles, 8].
    """

    def __init__(self, path: str | Path, base_offset: int, index: NDArray[np.uint64], name: str = "matrix") -> None:
        self.path, self.name, self.base_offset = str(path), name, base_offset
        self.index = np.array(index, dtype=np.uint64)
        if self.index.ndim != 2 or self.index.shape[0] < 1 or self.index.shape[1] != _INDEX_COLUMNS:
            raise ValueError(f"[reference] index must have shape (n_tiles, 8), got {self.index.shape}")
        entries = [self._entry(tile) for tile in range(len(self.index))]
        self.rows = max(entry["row0"] + entry["n_rows"] for entry in entries)
        self.cols = max(entry["col0"] + entry["n_cols"] for entry in entries)
        self.stored_bytes = [_aligned(e["prefix_bytes"]) + _aligned(e["residual_bytes"]) for e in entries]
        if sum(entry["n_rows"] * entry["n_cols"] for entry in entries) != self.rows * self.cols:
            raise self._corrupt(0, "the tiles do not cover the matrix exactly")

    def tiles(self, rows: NDArray[np.int64] | None = None, planes: str = "all") -> Iterator[DecodedTile]:
        """All tiles in order, or those that hold any of `rows`; with planes "prefix" without the residuals of exact.

        With "resident" all of each, as where the budget holds everything.
        """
        for number in range(len(self.index)):
            entry = self._entry(number)
            inside = rows is None or ((rows >= entry["row0"]) & (rows < entry["row0"] + entry["n_rows"])).any()
            if inside:
                yield self._decode(number, entry, planes == "prefix" and entry["codec"] == reference_codec.EXACT)

    def dense(self) -> NDArray[np.float32]:
        """The whole matrix [rows, cols]."""
        out = np.full((self.rows, self.cols), np.nan, np.float32)
        for tile in self.tiles():
            n_rows, n_cols = tile.weights.shape
            out[tile.row0 : tile.row0 + n_rows, tile.col0 : tile.col0 + n_cols] = tile.weights
        return out

    def _entry(self, number: int) -> dict[str, int]:
        row = [int(value) for value in self.index[number]]
        low, high = [value & 0xFFFFFFFF for value in row], [value >> 32 for value in row]
        return {
            "prefix_offset": row[0],
            "residual_offset": row[1],
            "prefix_bytes": low[2],
            "residual_bytes": high[2],
            "prefix_crc": low[3],
            "residual_crc": high[3],
            "codec": row[4] & 255,
            "dtype": row[4] >> 8 & 255,
            "row0": low[5],
            "n_rows": high[5],
            "col0": low[6],
            "n_cols": high[6],
        }

    def _decode(self, number: int, entry: dict[str, int], prefix_alone: bool) -> DecodedTile:
        shape = entry["dtype"], entry["n_rows"], entry["n_cols"]
        prefix = self._read(number, entry, "prefix")
        residual = b"" if prefix_alone else self._read(number, entry, "residual")
        try:
            if prefix_alone:
                patterns = reference_codec.decode_prefix(*shape, prefix)
            else:
                patterns = reference_codec.decode_tile(entry["codec"], *shape, prefix, residual)
        except ValueError as error:
            raise self._corrupt(number, str(error)) from error
        weights = reference_codec.to_float32(patterns, entry["dtype"])
        return DecodedTile(
            entry["row0"], entry["col0"], weights, entry["codec"], _aligned(len(prefix)) + _aligned(len(residual))
        )

    def _read(self, number: int, entry: dict[str, int], kind: str) -> bytes:
        n_bytes = entry[f"{kind}_bytes"]
        offset = self.base_offset + entry[f"{kind}_offset"]
        # A hostile size must not become an allocation: nothing longer than the file is asked for.
        if offset + n_bytes > os.path.getsize(self.path):
            raise self._corrupt(number, f"its {kind} lies past the end of the file", offset)
        with open(self.path, "rb") as file:
            file.seek(offset)
            data = file.read(n_bytes)
        if len(data) != n_bytes or _native.crc32c(data) != entry[f"{kind}_crc"]:
            raise self._corrupt(number, f"its {kind} does not match its checksum", offset)
        return data

    def _corrupt(self, tile: int, problem: str, offset: int | None = None) -> CorruptTileError:
        place = f"{self.path}: {self.name}: tile {tile}" + ("" if offset is None else f" at offset {offset}")
        return CorruptTileError(f"{place}: {problem}", file=self.path, tensor=self.name, tile=tile, offset=offset)


class ReferencePager:
    """The pager of the reference backend: the native Pager's methods, and no cache: every use reads every tile."""

    def __init__(self, budget_bytes: int, policy: str = "stable", prefetch_depth: int = 8, io_threads: int = 2) -> None:
        if policy not in ("stable", "lru"):
            raise ValueError(f"[pager] policy must be stable or lru, got {policy}")
        self._budget_bytes = budget_bytes
        self._files: list[str] = []
        self._matrices: list[ReferenceMatrix] = []
        self._faults = self._read_bytes = self._peak_bytes = 0

    def add_file(self, path: str) -> int:
        self._files.append(path)
        return len(self._files) - 1

    def add_matrix(self, name: str, file: int, base_offset: int, index: NDArray[np.uint64]) -> int:
        self._matrices.append(ReferenceMatrix(self._files[file], base_offset, index, name))
        return len(self._matrices) - 1

    def matrix(self, handle: int) -> ReferenceMatrix:
        if not 0 <= handle < len(self._matrices):
            raise ValueError(f"[pager] handle must be from 0 to {len(self._matrices) - 1}, got {handle}")
        return self._matrices[handle]

    def start(self, sweep: Sequence[int], drafted: Sequence[int] = ()) -> None:
        for handle in (*sweep, *drafted):
            self.matrix(handle)
        if self._budget_bytes < self.minimum_budget():
            raise BudgetError(
                f"the budget must be at least {self.minimum_budget()} bytes for this model, got {self._budget_bytes}"
            )

    def shape(self, handle: int) -> tuple[int, int]:
        matrix = self.matrix(handle)
        return matrix.rows, matrix.cols

    def minimum_budget(self) -> int:
        return max((max(matrix.stored_bytes) for matrix in self._matrices), default=0)

    def total_bytes(self) -> int:
        return sum(sum(matrix.stored_bytes) for matrix in self._matrices)

    def tiles(self, handle: int, rows: NDArray[np.int64] | None = None, planes: str = "all") -> Iterator[DecodedTile]:
        """Decoded tiles of a matrix, counted as page faults."""
        for tile in self.matrix(handle).tiles(rows, planes):
            self._faults += 1
            self._read_bytes += tile.read_bytes
            self._peak_bytes = max(self._peak_bytes, tile.read_bytes)
            yield tile

    def verify(self, handle: int) -> None:
        for _ in self.matrix(handle).tiles():
            pass

    def counters(self) -> dict[str, Any]:
        return {
            "page_faults": self._faults,
            "hits": 0,
            "prefetch_hits": 0,
            "bytes_compressed_read": self._read_bytes,
            "evictions": self._faults,
            "stall_s": 0.0,
            "resident_bytes": 0,
            "held_bytes": 0,
            "peak_bytes": self._peak_bytes,
            "budget_bytes": self._budget_bytes,
            "total_bytes": self.total_bytes(),
            "n_tiles": sum(len(matrix.index) for matrix in self._matrices),
            "n_resident_tiles": 0,
            "n_kept_prefixes": 0,
            "follows_recency": False,
            "io_mode": "buffered",
        }

    def reset_counters(self) -> None:
        self._faults = self._read_bytes = self._peak_bytes = 0

    def close(self) -> None:
        self._matrices.clear()


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT
