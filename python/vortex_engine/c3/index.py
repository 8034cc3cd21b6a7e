"""The index tensor of a matrix: one row of eight u64 a tile, built by the packer and checked by the reader.

The row's fields are in `csrc/c3/FORMAT.md`. The check here makes the shape that a model is wired with trustworthy;
native code checks again, against the file, before it reads a tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vortex_engine.c3.layout import (
    ALIGNMENT,
    BLOCK_COLS,
    CODEC_IDS,
    DTYPE_NAMES,
    INDEX_COLUMNS,
    LOSSY_CODECS,
    MAX_TILE_BYTES,
    PANEL_ROWS,
)

_LOW = np.uint64(0xFFFFFFFF)
_HIGH = np.uint64(32)
_MAX_TILES = 1 << 32


class TileIndexError(ValueError):
    """An index tensor that breaks a rule; `tile` is the first tile at fault."""

    def __init__(self, message: str, tile: int | None = None) -> None:
        super().__init__(message)
        self.tile = tile


@dataclass(frozen=True, slots=True)
class TileColumns:
    """The fields of an index tensor, unpacked: one int64 array [n_tiles] each."""

    prefix_offset: npt.NDArray[np.int64]
    residual_offset: npt.NDArray[np.int64]
    prefix_bytes: npt.NDArray[np.int64]
    residual_bytes: npt.NDArray[np.int64]
    codec: npt.NDArray[np.int64]
    dtype: npt.NDArray[np.int64]
    source_dtype: npt.NDArray[np.int64]
    row0: npt.NDArray[np.int64]
    n_rows: npt.NDArray[np.int64]
    col0: npt.NDArray[np.int64]
    n_cols: npt.NDArray[np.int64]

    @property
    def stored_bytes(self) -> npt.NDArray[np.int64]:
        """Bytes of each tile in the file, alignment included."""
        return _align(self.prefix_bytes) + _align(self.residual_bytes)


def unpack_index(index: npt.NDArray[np.uint64]) -> TileColumns:
    """The fields of an index tensor [n_tiles, 8] whose offsets are below 2**63."""
    low = (index & _LOW).astype(np.int64)
    high = (index >> _HIGH).astype(np.int64)
    kinds = low[:, 4]
    return TileColumns(
        prefix_offset=index[:, 0].astype(np.int64),
        residual_offset=index[:, 1].astype(np.int64),
        prefix_bytes=low[:, 2],
        residual_bytes=high[:, 2],
        codec=kinds & 0xFF,
        dtype=(kinds >> 8) & 0xFF,
        source_dtype=(kinds >> 16) & 0xFF,
        row0=low[:, 5],
        n_rows=high[:, 5],
        col0=low[:, 6],
        n_cols=high[:, 6],
    )


def check_index(index: npt.NDArray[np.uint64], tiles_bytes: int) -> tuple[int, int, TileColumns]:
    """Check an index tensor against the bytes of its tiles tensor.

    Returns:
        Rows and columns of the matrix, and the unpacked fields.

    Raises:
        TileIndexError: the first broken rule and tile.
    """
    if index.ndim != 2 or index.shape[1] != INDEX_COLUMNS or not 0 < index.shape[0] < _MAX_TILES:
        raise TileIndexError(f"an index tensor is [n_tiles, {INDEX_COLUMNS}], got {list(index.shape)}")
    _refuse(np.any(index[:, :2] >= np.uint64(1 << 62), axis=1), "its offset is beyond any file")
    _refuse((index[:, 4] >> np.uint64(24)) != 0, "reserved bits are set")
    _refuse(index[:, 7] != 0, "reserved bits are set")
    tiles = unpack_index(index)

    _refuse(
        (tiles.prefix_offset % ALIGNMENT != 0) | (tiles.residual_offset % ALIGNMENT != 0), "an offset is not aligned"
    )
    _refuse(tiles.prefix_bytes == 0, "its prefix is empty")
    _refuse((tiles.residual_bytes == 0) & (tiles.residual_offset != 0), "an empty residual has an offset")
    ends = np.maximum(
        tiles.prefix_offset + _align(tiles.prefix_bytes), tiles.residual_offset + _align(tiles.residual_bytes)
    )
    _refuse(ends > tiles_bytes, "it ends behind its tensor")
    _refuse(tiles.stored_bytes > MAX_TILE_BYTES, f"it is larger than {MAX_TILE_BYTES} bytes")
    _refuse(~np.isin(tiles.codec, list(CODEC_IDS.values())), "unknown codec")
    _refuse(~np.isin(tiles.dtype, list(DTYPE_NAMES)), "unknown dtype")
    _refuse(tiles.source_dtype != tiles.source_dtype[0], "its source dtype differs from the first tile's")
    _refuse(~np.isin(tiles.source_dtype, list(DTYPE_NAMES)), "unknown source dtype")
    upcast = (tiles.source_dtype == 3) & (tiles.dtype == 1)
    lossy = np.isin(tiles.codec, [CODEC_IDS[codec] for codec in LOSSY_CODECS])
    same = (tiles.dtype == tiles.source_dtype) | upcast
    _refuse((lossy & (tiles.dtype != 3)) | (~lossy & ~same), "its dtype cannot come from its source dtype")
    return *_check_coverage(tiles), tiles


def _check_coverage(tiles: TileColumns) -> tuple[int, int]:
    """Tiles run through the matrix in row-major order without gap or overlap."""
    _refuse((tiles.n_rows == 0) | (tiles.n_cols == 0), "it holds no weight")
    row_end, col_end = tiles.row0 + tiles.n_rows, tiles.col0 + tiles.n_cols
    rows, cols = int(row_end[-1]), int(col_end[-1])
    _refuse((tiles.row0 % PANEL_ROWS != 0) | (tiles.col0 % BLOCK_COLS != 0), "it does not start at a panel and block")
    _refuse((tiles.n_rows > PANEL_ROWS) & (tiles.n_cols != cols), "it has several panels, but not all columns")
    new_row = np.empty(len(tiles.row0), dtype=bool)
    new_row[0] = True
    new_row[1:] = col_end[:-1] == cols
    expected_row0 = np.where(new_row, np.concatenate(([0], row_end[:-1])), np.concatenate(([0], tiles.row0[:-1])))
    expected_col0 = np.where(new_row, 0, np.concatenate(([0], col_end[:-1])))
    _refuse((tiles.row0 != expected_row0) | (tiles.col0 != expected_col0), "it does not follow the tile before it")
    same_rows = np.concatenate((tiles.n_rows[:1], tiles.n_rows[:-1]))
    _refuse(~new_row & (tiles.n_rows != same_rows), "its rows differ from its neighbour's")
    return rows, cols


def _align(n_bytes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def _refuse(broken: npt.NDArray[np.bool_], what: str) -> None:
    if broken.any():
        raise TileIndexError(what, int(np.argmax(broken)))
