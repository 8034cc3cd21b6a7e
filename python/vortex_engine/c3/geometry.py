"""Where a matrix is cut into tiles, and which tiles are written together.

A tile holds whole 64-row panels of all columns, or one panel's range of columns. Its uncompressed bytes, padded to
whole panels and blocks, stay below a limit that keeps every stored tile within 1 MiB and 1/64 of the packed model:
no tile is stored larger than uncompressed, and the factors below are under the smallest share of its uncompressed
size that a packed model can reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vortex_engine.c3.layout import (
    BLOCK_COLS,
    GROUP_TILES,
    ITEM_BYTES,
    MAX_TILE_BYTES,
    PANEL_ROWS,
    align_up,
)

_ALIGNMENT_ALLOWANCE = 64 << 10
_LARGEST_SHARE = 64  # a tile is at most 1/64 of the model
# fp32 may turn out to be upcast bf16, which halves its share.
_PACKED_SHARE = {"bf16": 0.6, "f16": 0.6, "f32": 0.3}

Tile = tuple[int, int, int, int]  # row0, n_rows, col0, n_cols


@dataclass(frozen=True, slots=True)
class Group:
    """Up to 8 tiles that are encoded together, and the rectangle of the matrix that covers exactly them."""

    row0: int
    n_rows: int
    col0: int
    n_cols: int
    tiles: tuple[Tile, ...]

    def relative_tiles(self) -> list[Tile]:
        """The tiles with rows and columns counted from the group's own corner."""
        return [(row0 - self.row0, n_rows, col0 - self.col0, n_cols) for row0, n_rows, col0, n_cols in self.tiles]


def tile_limit(matrices: Iterable[tuple[int, int, str]]) -> int:
    """Most uncompressed bytes of a tile in a model of these (rows, cols, dtype) matrices."""
    packed_bytes = sum(rows * cols * ITEM_BYTES[dtype] * _PACKED_SHARE[dtype] for rows, cols, dtype in matrices)
    return min(MAX_TILE_BYTES - _ALIGNMENT_ALLOWANCE, int(packed_bytes / _LARGEST_SHARE))


def groups(rows: int, cols: int, dtype: str, limit_bytes: int, *, split_cols: int = BLOCK_COLS) -> Iterator[Group]:
    """The tiles of a matrix in file order, in groups; columns are split at multiples of `split_cols`."""
    tile_rows, tile_cols = _tile_shape(rows, cols, dtype, limit_bytes, split_cols)
    n_splits = -(-cols // tile_cols)
    splits_together = min(n_splits, GROUP_TILES)
    group_rows = tile_rows * (GROUP_TILES // splits_together)
    group_cols = cols if n_splits <= GROUP_TILES else tile_cols * splits_together
    for row0 in range(0, rows, group_rows):
        n_rows = min(group_rows, rows - row0)
        for col0 in range(0, cols, group_cols):
            n_cols = min(group_cols, cols - col0)
            tiles = tuple(
                (row, min(tile_rows, row0 + n_rows - row), col, min(tile_cols, col0 + n_cols - col))
                for row in range(row0, row0 + n_rows, tile_rows)
                for col in range(col0, col0 + n_cols, tile_cols)
            )
            yield Group(row0, n_rows, col0, n_cols, tiles)


def count_tiles(rows: int, cols: int, dtype: str, limit_bytes: int, *, split_cols: int = BLOCK_COLS) -> int:
    """Number of tiles of a matrix."""
    tile_rows, tile_cols = _tile_shape(rows, cols, dtype, limit_bytes, split_cols)
    return -(-rows // tile_rows) * -(-cols // tile_cols)


def _tile_shape(rows: int, cols: int, dtype: str, limit_bytes: int, split_cols: int) -> tuple[int, int]:
    column_bytes = PANEL_ROWS * ITEM_BYTES[dtype]
    panel_bytes = column_bytes * align_up(cols, BLOCK_COLS)
    if panel_bytes <= limit_bytes:
        panels = min(limit_bytes // panel_bytes, -(-rows // PANEL_ROWS))
        return panels * PANEL_ROWS, cols
    most_cols = max(split_cols, limit_bytes // column_bytes // split_cols * split_cols)
    n_splits = -(-cols // most_cols)
    return PANEL_ROWS, align_up(-(-cols // n_splits), split_cols)
