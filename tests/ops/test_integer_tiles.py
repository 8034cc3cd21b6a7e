"""`int8` and `int4` tiles: what they decode to, how far that is from the weights, and one order of every sum."""

from __future__ import annotations

import numpy as np
import pytest

from vortex_engine import _native, ops
from vortex_engine.ops.reference_codec import decode_tile

INT8, INT4 = 2, 3
BF16, F16, F32 = 1, 2, 3
SHAPES = [(1, 1), (64, 32), (67, 63), (500, 65), (130, 500)]
# Relative RMS error on Gaussian weights; plain rounding to the largest weight of a group gives 0.0056 and 0.087.
WORST_ERROR = {INT8: 0.0062, INT4: 0.078}


def weights_of(rows: int, cols: int, dtype: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bit patterns of Gaussian weights and their float32 values."""
    values = np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32) * np.float32(0.02)
    if dtype == F16:
        half = values.astype(np.float16)
        return half.view(np.uint16), half.astype(np.float32)
    if dtype == F32:
        return values.view(np.uint32), values
    patterns = (values.view(np.uint32) >> 16).astype(np.uint16)
    return patterns, (patterns.astype(np.uint32) << 16).view(np.float32)


def encode(patterns: np.ndarray, dtype: int, codec: int) -> tuple[bytes, bytes, int, int]:
    rows, cols = patterns.shape
    pool = _native.Pool(1, _native.simd_levels()[0])
    slab = np.ascontiguousarray(patterns).view(np.uint8).reshape(-1)
    return _native.encode_tiles(pool, slab, rows, cols, dtype, codec, [(0, rows, 0, cols)])[0]


def decode(tile: tuple[bytes, bytes, int, int], rows: int, cols: int) -> np.ndarray:
    prefix, residual, codec, dtype = tile
    return _native.decode_tile(codec, dtype, rows, cols, prefix, residual).view(np.float32)


@pytest.mark.parametrize("codec", [INT8, INT4])
@pytest.mark.parametrize("dtype", [BF16, F16, F32])
@pytest.mark.parametrize("shape", SHAPES)
def test_native_and_reference_decode_alike_and_stay_close(shape, dtype, codec):
    patterns, values = weights_of(*shape, dtype)
    tile = encode(patterns, dtype, codec)
    assert tile[2:] == (codec, F32)
    decoded = decode(tile, *shape)
    plain = decode_tile(codec, F32, *shape, tile[0], tile[1])
    np.testing.assert_array_equal(decoded.view(np.uint32), plain)
    error = np.sqrt(np.square(decoded - values, dtype=np.float64).mean() / np.square(values, dtype=np.float64).mean())
    assert error <= WORST_ERROR[codec]


@pytest.mark.parametrize("codec", [INT8, INT4])
def test_zeros_stay_zeros_and_one_large_weight_does_not_drown_its_row(codec):
    values = np.zeros((64, 96), np.float32)
    values[3, 5] = 1000.0
    values[3, 32:64] = np.linspace(-1, 1, 32)
    decoded = decode(encode(values.view(np.uint32), F32, codec), 64, 96)
    assert not decoded[np.arange(64) != 3].any()
    assert abs(decoded[3, 5] - 1000) < 5
    # The scale of a group is a multiple of 1/255 of the row's largest: here far too coarse, so it is not lost but 0.26.
    assert np.abs(decoded[3, 32:64] - values[3, 32:64]).max() < 1.1


@pytest.mark.parametrize("codec", [INT8, INT4])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_tile_that_is_not_finite_is_stored_raw(codec, bad):
    values = weights_of(65, 40, F32)[1].copy()
    values[64, 39] = bad
    tile = encode(values.view(np.uint32), F32, codec)
    assert tile[2:] == (0, F32)
    np.testing.assert_array_equal(decode(tile, 65, 40).view(np.uint32), values.view(np.uint32))


@pytest.mark.parametrize("codec", [INT8, INT4])
def test_every_truncation_and_a_bad_unit_is_refused(codec):
    prefix, residual, *_ = encode(weights_of(65, 40, BF16)[0], BF16, codec)
    for cut in (0, 1, 64, len(prefix) - 1):
        with pytest.raises(ValueError, match="size of an integer tile"):
            _native.decode_tile(codec, F32, 65, 40, prefix[:cut], residual)
    bad = np.array([np.nan], np.float32).tobytes() + prefix[4:]
    with pytest.raises(ValueError, match="row unit of panel 0"):
        _native.decode_tile(codec, F32, 65, 40, bad, residual)
    with pytest.raises(ValueError, match="f32 only"):
        _native.decode_tile(codec, BF16, 65, 40, prefix, residual)


@pytest.mark.parametrize("codec", [INT8, INT4])
@pytest.mark.parametrize("shape", SHAPES)
def test_linear_is_close_to_float64_and_one_order_everywhere(native_contexts, pack_matrix, shape, codec, same_bits):
    packed = pack_matrix(*shape, BF16, codec)
    x = np.random.default_rng(2).standard_normal((33, shape[1])).astype(np.float32)
    pager, handle = packed.open(native_contexts[0])
    ids = np.arange(shape[0])
    weights = ops.embed_rows(native_contexts[0], pager, handle, ids).astype(np.float64)
    wanted = ops.paged_linear(native_contexts[0], pager, [handle], x, [None])[0]
    exact = x.astype(np.float64) @ weights.T
    scale = np.abs(x.astype(np.float64)) @ np.abs(weights.T) + 1e-12
    assert (np.abs(wanted - exact) / scale).max() < 4e-6
    for ctx in native_contexts:
        same_bits(ops.embed_rows(ctx, pager, handle, ids), weights.astype(np.float32))
        same_bits(ops.paged_linear(ctx, pager, [handle], x, [None])[0], wanted)
        for part in (slice(0, 1), slice(5, 12), slice(32, 33)):
            same_bits(ops.paged_linear(ctx, pager, [handle], x[part].copy(), [None])[0], wanted[part])
    pager.close()
