"""Encoding into used memory gives the bytes of encoding into fresh memory, laid out as a shard stores them."""

from __future__ import annotations

import numpy as np
import pytest

from vortex_engine import _native
from vortex_engine.c3.layout import ALIGNMENT, CODEC_IDS, DTYPE_IDS

# Falling and rising sizes, cut panels and blocks, and weights that no codec shrinks.
SLABS = [(192, 300, "smooth"), (70, 41, "random"), (5, 3, "smooth"), (129, 77, "zero"), (64, 520, "smooth")]


def slab_of(rows: int, cols: int, kind: str) -> np.ndarray:
    """bf16 patterns as bytes."""
    rng = np.random.default_rng(rows)
    if kind == "random":
        return rng.integers(0, 256, 2 * rows * cols, dtype=np.uint8)
    weights = rng.normal(0, 0.02 if kind == "smooth" else 0, (rows, cols)).astype(np.float32)
    weights.reshape(-1)[::97] *= 1e-9
    return (weights.view(np.uint32) >> 16).astype("<u2").reshape(-1).view(np.uint8)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)


@pytest.mark.parametrize("threads", [1, 2])
def test_used_memory_changes_nothing(threads: int) -> None:
    pool = _native.Pool(threads, _native.simd_levels()[0])
    group = _native.EncodedGroup()
    crc, written = 0, b""
    for codec in CODEC_IDS:
        for rows, cols, kind in SLABS:
            tiles = [(row, min(64, rows - row), 0, cols) for row in range(0, rows, 64)]
            arguments = (pool, slab_of(rows, cols, kind), rows, cols, DTYPE_IDS["bf16"], CODEC_IDS[codec], tiles)
            fresh = _native.encode_tiles(*arguments)
            group.encode(*arguments)
            for found, (prefix, residual, used, dtype) in zip(group.tiles(), fresh, strict=True):
                crcs = _native.crc32c(prefix), _native.crc32c(residual)
                assert found == (len(prefix), len(residual), *crcs, used, dtype), (codec, rows, cols)
            expected = [padded(tile[0]) for tile in fresh] + [padded(tile[1]) for tile in fresh]
            parts = group.parts()
            assert [bytes(part) for part in parts] == expected, (codec, rows, cols)
            assert all(part.readonly for part in parts)
            crc, written = group.extend_crc(crc), written + b"".join(expected)
            assert crc == _native.crc32c(written)


def test_views_keep_their_group_alive() -> None:
    pool = _native.Pool(1, _native.simd_levels()[0])
    group = _native.EncodedGroup()
    group.encode(pool, slab_of(64, 300, "smooth"), 64, 300, DTYPE_IDS["bf16"], CODEC_IDS["exact"], [(0, 64, 0, 300)])
    parts = group.parts()
    before = [bytes(part) for part in parts]
    del group
    _native.encode_tiles(
        pool, slab_of(192, 300, "zero"), 192, 300, DTYPE_IDS["bf16"], CODEC_IDS["raw"], [(0, 192, 0, 300)]
    )
    assert [bytes(part) for part in parts] == before


def test_a_tile_outside_the_slab_is_refused() -> None:
    pool = _native.Pool(1, _native.simd_levels()[0])
    with pytest.raises(ValueError, match="inside the slab"):
        _native.EncodedGroup().encode(pool, slab_of(5, 3, "smooth"), 5, 3, DTYPE_IDS["bf16"], 1, [(0, 6, 0, 3)])
