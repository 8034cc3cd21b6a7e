"""Tiles cover a matrix exactly, in order, within their limit."""

import numpy as np
import pytest

from vortex_engine.c3.geometry import count_tiles, groups, tile_limit
from vortex_engine.c3.layout import GROUP_TILES, ITEM_BYTES, MAX_TILE_BYTES

SIZES = [(1, 1), (63, 65), (65, 8), (151, 7), (64, 9000), (4096, 16384), (896, 4864), (70, 300_000), (3, 500_001)]


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize(("rows", "cols"), SIZES)
@pytest.mark.parametrize("limit", [0, 5000, 100_000, MAX_TILE_BYTES - 65536])
def test_tiles_cover_the_matrix_in_order(rows, cols, dtype, limit):
    tiles = []
    for group in groups(rows, cols, dtype, limit):
        assert 1 <= len(group.tiles) <= GROUP_TILES
        assert sum(n_rows * n_cols for _, n_rows, _, n_cols in group.tiles) == group.n_rows * group.n_cols
        for row0, n_rows, col0, n_cols in group.relative_tiles():
            assert 0 <= row0 < row0 + n_rows <= group.n_rows
            assert 0 <= col0 < col0 + n_cols <= group.n_cols
        tiles += group.tiles
    assert len(tiles) == count_tiles(rows, cols, dtype, limit)
    table = np.array(tiles)
    assert (table[:, 0] % 64 == 0).all() and (table[:, 2] % 8 == 0).all()
    assert (table[:, 1] * table[:, 3]).sum() == rows * cols
    assert ((table[:, 1] % 64 == 0) | (table[:, 0] + table[:, 1] == rows)).all()
    assert ((table[:, 3] % 8 == 0) | (table[:, 2] + table[:, 3] == cols)).all()
    assert ((table[:, 3] == cols) | (table[:, 1] <= 64)).all()
    assert (np.diff(table[:, 0] * (cols + 1) + table[:, 2]) > 0).all()
    stored = -(-table[:, 1] // 64) * 64 * -(-table[:, 3] // 8) * 8 * ITEM_BYTES[dtype]
    assert stored.max() <= max(limit, 64 * 8 * ITEM_BYTES[dtype])


def test_limit_is_a_share_of_what_the_model_can_become():
    assert tile_limit([(4096, 4096, "bf16")] * 200) == MAX_TILE_BYTES - 65536
    assert tile_limit([(1000, 1000, "bf16")]) == int(2_000_000 * 0.6 / 64)
    mixed = tile_limit([(1000, 1000, "bf16"), (1000, 1000, "f32")])
    assert mixed == int((2_000_000 * 0.6 + 4_000_000 * 0.3) / 64)
