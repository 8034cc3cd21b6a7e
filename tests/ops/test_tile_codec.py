"""The native codec against the executable specification, byte for byte and bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from vortex_engine import ops
from vortex_engine.ops import reference_codec

ITEM = {1: np.uint16, 2: np.uint16, 3: np.uint32}


def all_patterns(dtype: int) -> np.ndarray:
    """Every 16-bit pattern (for fp32: under random low bits), shuffled: NaN payloads, -0.0, subnormals, infinities."""
    rng = np.random.default_rng(5)
    patterns = rng.permutation(1 << 16).astype(np.uint32)
    if dtype == 3:
        patterns = patterns << np.uint32(16) | rng.integers(0, 1 << 16, 1 << 16, dtype=np.uint32)
    return patterns.astype(ITEM[dtype]).reshape(256, 256)


def gaussian(rows: int, cols: int, dtype: int, scale: float = 0.02) -> np.ndarray:
    values = (scale * np.random.default_rng(rows + cols).standard_normal((rows, cols))).astype(np.float32)
    if dtype == 2:
        return values.astype(np.float16).view(np.uint16)
    return (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == 1 else values.view(np.uint32)


def inputs(dtype: int) -> dict[str, np.ndarray]:
    narrow = gaussian(130, 30, 3)
    many_near = gaussian(64, 64, dtype)
    bits = {1: 7, 2: 10, 3: 23}[dtype]
    many_near[:, 8:16] = 1 << bits  # a block with more small weights than its near list holds
    special = gaussian(70, 17, dtype)
    special[3, 4], special[69, 16], special[0, 0] = 0, 1 << (8 * special.itemsize - 1), np.iinfo(special.dtype).max
    return {
        "all": all_patterns(dtype),
        "gaussian": gaussian(192, 500, dtype),
        "odd": gaussian(63, 1, dtype),
        "special": special,
        "many_near": many_near,
        "zero": np.zeros((65, 9), ITEM[dtype]),
        "upcast": narrow & np.uint32(0xFFFF0000) if dtype == 3 else gaussian(5, 5, dtype),
    }


def encode(ctx, weights: np.ndarray, dtype: int, codec: int) -> tuple[bytes, bytes, int, int]:
    rows, cols = weights.shape
    slab = np.frombuffer(weights.tobytes(), np.uint8)
    return ops.tile_encode(ctx, slab, rows, cols, dtype, codec, [(0, rows, 0, cols)])[0]


def source_patterns(decoded: np.ndarray, encoded_dtype: int, dtype: int) -> np.ndarray:
    return decoded.astype(np.uint32) << np.uint32(16) if encoded_dtype != dtype else decoded


@pytest.mark.parametrize("codec", [0, 1])
@pytest.mark.parametrize("dtype", [1, 2, 3])
def test_round_trip_is_bit_exact(ctx, dtype, codec):
    for name, weights in inputs(dtype).items():
        prefix, residual, used_codec, used_dtype = encode(ctx, weights, dtype, codec)
        decoded = ops.tile_decode(ctx, used_codec, used_dtype, *weights.shape, prefix, residual)
        np.testing.assert_array_equal(source_patterns(decoded, used_dtype, dtype), weights, err_msg=name)


@pytest.mark.parametrize("codec", [0, 1])
@pytest.mark.parametrize("dtype", [1, 2, 3])
def test_every_backend_writes_the_specified_bytes(ctx, dtype, codec):
    for name, weights in inputs(dtype).items():
        assert encode(ctx, weights, dtype, codec) == reference_codec.encode_tile(weights, dtype, codec), name


def test_exact_saves_what_it_promises(ctx):
    weights = gaussian(4096, 64, 1)
    prefix, residual, codec, _ = encode(ctx, weights, 1, 1)
    assert codec == 1 and 8 * (len(prefix) + len(residual)) / weights.size < 11.6


def test_tiles_are_cut_from_the_slab(ctx):
    weights = gaussian(200, 100, 1)
    slab = np.frombuffer(weights.tobytes(), np.uint8)
    tiles = [(0, 64, 0, 56), (64, 64, 56, 44), (128, 72, 0, 100)]
    for tile, part in zip(tiles, ops.tile_encode(ctx, slab, 200, 100, 1, 1, tiles), strict=True):
        row0, n_rows, col0, n_cols = tile
        decoded = ops.tile_decode(ctx, part[2], part[3], n_rows, n_cols, part[0], part[1])
        np.testing.assert_array_equal(decoded, weights[row0 : row0 + n_rows, col0 : col0 + n_cols])


@pytest.mark.parametrize("dtype", [1, 2, 3])
def test_backends_agree_about_broken_structure(ctx, dtype):
    """Any change of a byte is refused by both, or decoded to the same patterns by both."""
    weights = gaussian(70, 40, dtype)
    weights[::7, ::5] ^= 0x3000
    encoded = encode(ctx, weights, dtype, 1)
    assert encoded[2] == 1
    rng = np.random.default_rng(dtype)
    for _ in range(150):
        parts = [bytearray(encoded[0]), bytearray(encoded[1])]
        part = parts[rng.integers(2)]
        at = int(rng.integers(64 if rng.random() < 0.3 else len(part)))
        part[at] ^= int(rng.integers(1, 256))
        outcomes = [
            decode_or_none(decode, dtype, parts) for decode in (ctx.table["tile_decode"], reference_codec.decode_tile)
        ]
        assert (outcomes[0] is None) == (outcomes[1] is None)
        if outcomes[0] is not None:
            np.testing.assert_array_equal(outcomes[0], outcomes[1])


def decode_or_none(decode, dtype: int, parts: list[bytearray]) -> np.ndarray | None:
    try:
        return decode(1, dtype, 70, 40, bytes(parts[0]), bytes(parts[1]))
    except ValueError:
        return None


def test_truncated_ranges_are_refused(ctx):
    prefix, residual, codec, dtype = encode(ctx, gaussian(64, 16, 1), 1, 1)
    for bad in ((prefix[:-1], residual), (prefix, residual[:-1]), (b"", b""), (prefix + b"\0" * 4, residual)):
        with pytest.raises(ValueError, match=r"\[.*decode.*\]"):
            ops.tile_decode(ctx, codec, dtype, 64, 16, *bad)
