"""The native codec against the executable specification, byte for byte and bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from lz4 import block

from vortex_engine import ops
from vortex_engine.ops import reference_codec

RAW, EXACT, LZ4, EXACT12, DENSE = 0, 1, 4, 5, 6
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
        "pruned": np.where(np.arange(9100).reshape(130, 70) % 11 == 0, gaussian(130, 70, dtype), 0).astype(ITEM[dtype]),
        "one_symbol": np.full((64, 5), 0x3FFF, ITEM[dtype]),
        "upcast": narrow & np.uint32(0xFFFF0000) if dtype == 3 else gaussian(5, 5, dtype),
    }


def encode(ctx, weights: np.ndarray, dtype: int, codec: int) -> tuple[bytes, bytes, int, int]:
    rows, cols = weights.shape
    slab = np.frombuffer(weights.tobytes(), np.uint8)
    return ops.tile_encode(ctx, slab, rows, cols, dtype, codec, [(0, rows, 0, cols)])[0]


def source_patterns(decoded: np.ndarray, encoded_dtype: int, dtype: int) -> np.ndarray:
    return decoded.astype(np.uint32) << np.uint32(16) if encoded_dtype != dtype else decoded


@pytest.mark.parametrize("codec", [RAW, EXACT, LZ4, EXACT12, DENSE])
@pytest.mark.parametrize("dtype", [1, 2, 3])
def test_round_trip_is_bit_exact(ctx, dtype, codec):
    for name, weights in inputs(dtype).items():
        prefix, residual, used_codec, used_dtype = encode(ctx, weights, dtype, codec)
        decoded = ops.tile_decode(ctx, used_codec, used_dtype, *weights.shape, prefix, residual)
        np.testing.assert_array_equal(source_patterns(decoded, used_dtype, dtype), weights, err_msg=name)


@pytest.mark.parametrize("codec", [RAW, EXACT, LZ4, EXACT12, DENSE])
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


@pytest.mark.parametrize("codec", [EXACT, LZ4, EXACT12, DENSE])
@pytest.mark.parametrize("dtype", [1, 2, 3])
def test_backends_agree_about_broken_structure(ctx, dtype, codec):
    """Any change of a byte is refused by both, or decoded to the same patterns by both."""
    weights = gaussian(70, 40, dtype)
    weights[::7, ::5] ^= 0x3000
    if codec == LZ4:
        weights[:, ::2] = 0
    encoded = encode(ctx, weights, dtype, codec)
    assert encoded[2] == (EXACT if codec == EXACT12 and dtype != 1 else codec)
    codec = encoded[2]
    rng = np.random.default_rng(dtype)
    for _ in range(150 if codec == EXACT else 50):
        parts = [bytearray(encoded[0]), bytearray(encoded[1])]
        part = parts[rng.integers(2)] or parts[0]
        at = int(rng.integers(64 if rng.random() < 0.3 else len(part)))
        part[at] ^= int(rng.integers(1, 256))
        outcomes = [
            decode_or_none(decode, codec, encoded[3], parts)
            for decode in (ctx.table["tile_decode"], reference_codec.decode_tile)
        ]
        assert (outcomes[0] is None) == (outcomes[1] is None)
        if outcomes[0] is not None:
            np.testing.assert_array_equal(outcomes[0], outcomes[1])


def decode_or_none(decode, codec: int, dtype: int, parts: list[bytearray]) -> np.ndarray | None:
    try:
        return decode(codec, dtype, 70, 40, bytes(parts[0]), bytes(parts[1]))
    except ValueError:
        return None


def test_truncated_ranges_are_refused(ctx):
    prefix, residual, codec, dtype = encode(ctx, gaussian(64, 16, 1), 1, 1)
    for bad in ((prefix[:-1], residual), (prefix, residual[:-1]), (b"", b""), (prefix + b"\0" * 4, residual)):
        with pytest.raises(ValueError, match=r"\[.*decode.*\]"):
            ops.tile_decode(ctx, codec, dtype, 64, 16, *bad)


@pytest.mark.parametrize("codec", [LZ4, EXACT12, DENSE])
def test_truncated_and_longer_tiles_are_refused(ctx, codec):
    weights = gaussian(70, 40, 1)
    weights[:, ::2] = 0
    prefix, residual, used, dtype = encode(ctx, weights, 1, codec)
    assert (used, residual) == (codec, b"")
    for bad in (prefix[:-1], prefix[: len(prefix) // 2], prefix[:100], prefix[:3], prefix + b"\0"):
        with pytest.raises(ValueError, match=r"\[.*decode.*\]"):
            ops.tile_decode(ctx, codec, dtype, 70, 40, bad, b"")
    with pytest.raises(ValueError, match=r"\[.*decode.*\]"):
        ops.tile_decode(ctx, codec, dtype, 70, 40, prefix, b"\0")


def test_exact12_saves_what_it_promises(ctx):
    weights = gaussian(512, 896, 1)
    prefix, residual, codec, _ = encode(ctx, weights, 1, EXACT12)
    assert codec == EXACT12 and not residual and 8 * len(prefix) / weights.size < 12.05


def test_exact12_stores_a_block_of_escapes_raw(ctx):
    """255 escapes in a block are written, 256 are not."""
    for n_escapes, stored in ((255, EXACT12), (256, RAW)):
        weights = gaussian(64, 64, 1)
        block = np.full(512, 0x3C00, np.uint16)
        block[:n_escapes] = 0x0200
        weights[:, 8:16] = block.reshape(64, 8)
        assert encode(ctx, weights, 1, EXACT12)[2] == stored


def test_dense_saves_what_it_promises(ctx):
    weights = gaussian(512, 896, 1)
    prefix, residual, codec, _ = encode(ctx, weights, 1, DENSE)
    assert codec == DENSE and not residual and 8 * len(prefix) / weights.size < 10.65


@pytest.mark.parametrize(("dtype", "bits"), [(1, 10.65), (3, 26.65)])
def test_dense_stores_no_rows_that_the_tile_does_not_have(ctx, dtype, bits):
    weights = gaussian(97, 900, dtype)
    prefix, _, codec, _ = encode(ctx, weights, dtype, DENSE)
    assert codec == DENSE and 8 * len(prefix) / weights.size < bits


def test_lz4_blocks_are_the_public_format(ctx):
    """Our blocks by the lz4 package, and its blocks (both of its compressors) by our decoder."""
    rng = np.random.default_rng(6)
    for weights in (
        np.where(rng.random((64, 300)) < 0.1, gaussian(64, 300, 1), 0).astype(np.uint16),
        np.zeros((64, 900), np.uint16),
        np.tile(gaussian(64, 7, 1), (1, 40)),
        np.resize(np.arange(130, dtype=np.uint16), (64, 1)),
    ):
        raw = weights.T.tobytes()
        prefix, _, codec, _ = encode(ctx, weights, 1, LZ4)
        if codec == LZ4:
            assert block.decompress(prefix[4:], uncompressed_size=len(raw)) == raw
        for mode in ("default", "high_compression"):
            theirs = block.compress(raw, mode=mode, store_size=False)
            tile = np.uint32(len(theirs)).tobytes() + theirs
            np.testing.assert_array_equal(ops.tile_decode(ctx, LZ4, 1, *weights.shape, tile, b""), weights)
