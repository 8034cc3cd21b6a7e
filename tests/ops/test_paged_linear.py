from __future__ import annotations

import threading

import numpy as np
import pytest

from vortex_engine import errors, ops
from vortex_engine.ops.reference_codec import to_float32

SHAPES = [(1, 1), (64, 63), (128, 128), (500, 63), (65, 500)]


def dense(packed) -> np.ndarray:
    return to_float32(packed.patterns, packed.dtype)


@pytest.mark.parametrize("codec", [0, 1])
@pytest.mark.parametrize("dtype", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_float64(ctx, pack_matrix, shape, dtype, codec, assert_close):
    packed = pack_matrix(*shape, dtype, codec)
    pager, handle = packed.open(ctx)
    rng = np.random.default_rng(1)
    bias = rng.standard_normal(shape[0]).astype(np.float32)
    for n_rows in (1, 3, 63):
        x = rng.standard_normal((n_rows, shape[1])).astype(np.float32)
        exact = x.astype(np.float64) @ dense(packed).astype(np.float64).T
        plain, biased = ops.paged_linear(ctx, pager, [handle, handle], x, [None, bias])
        assert_close(plain, exact, "reduction")
        assert_close(biased, exact + bias, "reduction")
    pager.close()


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_do_not_depend_on_level_threads_or_rows(native_contexts, pack_matrix, shape, same_bits):
    packed = pack_matrix(*shape)
    x = np.random.default_rng(2).standard_normal((63, shape[1])).astype(np.float32)
    pager, handle = packed.open(native_contexts[0])
    wanted = ops.paged_linear(native_contexts[0], pager, [handle], x, [None])[0]
    for ctx in native_contexts:
        same_bits(ops.paged_linear(ctx, pager, [handle], x, [None])[0], wanted)
        for part in (slice(0, 1), slice(5, 12), slice(62, 63)):
            same_bits(ops.paged_linear(ctx, pager, [handle], x[part].copy(), [None])[0], wanted[part])
    pager.close()


@pytest.mark.parametrize("dtype", [1, 2, 3])
def test_embedding_rows_are_exact(ctx, pack_matrix, dtype, same_bits):
    packed = pack_matrix(323, 63, dtype)
    pager, handle = packed.open(ctx)
    ids = np.array([0, 322, 5, 5, 64, 63, 200], np.int64)
    same_bits(ops.embed_rows(ctx, pager, handle, ids), np.ascontiguousarray(dense(packed)[ids]))
    assert ops.embed_rows(ctx, pager, handle, np.zeros(0, np.int64)).shape == (0, 63)
    pager.close()


def test_many_workers_share_few_slots(pack_matrix, same_bits):
    """More workers than slots, tiles of several panels: nobody may hold a tile for one who waits for memory."""
    packed = pack_matrix(40960, 8, tile_rows=384)
    ctx = ops.make_context(threads=8, backend="cpu")
    measured, _ = packed.open(ctx)
    pager = ops.make_pager(ctx, measured.minimum_budget())
    handle = pager.add_matrix("w", pager.add_file(str(packed.path)), packed.base_offset, packed.index)
    pager.start([handle])
    x = np.ones((1, 8), np.float32)
    wanted = ops.paged_linear(ctx, measured, [handle], x, [None])[0]
    got: list[np.ndarray] = []

    def sweep() -> None:
        got.extend(ops.paged_linear(ctx, pager, [handle], x, [None])[0] for _ in range(60))

    worker = threading.Thread(target=sweep, daemon=True)  # so that a deadlock fails the test and does not hang it
    worker.start()
    worker.join(timeout=120)
    assert len(got) == 60, "workers wait for each other"
    for values in got:
        same_bits(values, wanted)
    pager.close()
    measured.close()


def test_bad_arguments_are_named(ctx, pack_matrix):
    pager, handle = pack_matrix(65, 40).open(ctx)
    x = np.zeros((2, 40), np.float32)
    cases = [
        (x[:, :39].copy(), [None], r"\[paged_linear\] .*39"),
        (x.astype(np.float64), [None], r"\[paged_linear\] x must be float32, got float64"),
        (x, [None, None], r"\[paged_linear\] biases must have one entry a handle, got 2"),
        (x, [np.zeros(64, np.float32)], r"\[paged_linear\] bias .*64"),
    ]
    for bad_x, biases, message in cases:
        with pytest.raises(ValueError, match=message):
            ops.paged_linear(ctx, pager, [handle], bad_x, biases)
    with pytest.raises(ValueError, match="7"):
        ops.paged_linear(ctx, pager, [7], x, [None])
    for bad in (-1, 65):
        with pytest.raises(ValueError, match=rf"\[embed_rows\] .*{bad}"):
            ops.embed_rows(ctx, pager, handle, np.array([3, bad], np.int64))
    pager.close()


def test_a_flipped_byte_is_a_corrupt_tile(ctx, pack_matrix):
    packed = pack_matrix(128, 40)
    data = bytearray(packed.path.read_bytes())
    data[4096 + int(packed.index[1, 0]) + 100] ^= 4
    packed.path.write_bytes(data)
    with pytest.raises(errors.CorruptTileError) as caught:
        pager, handle = packed.open(ctx)
        ops.paged_linear(ctx, pager, [handle], np.zeros((1, 40), np.float32), [None])
    assert caught.value.tile == 1 and caught.value.tensor == "w" and str(packed.path) in str(caught.value)
