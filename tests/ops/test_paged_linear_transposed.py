from __future__ import annotations

import numpy as np
import pytest

from vortex_engine import errors, ops
from vortex_engine.ops.reference_codec import to_float32

SHAPES = [(1, 1), (64, 63), (128, 128), (500, 67), (65, 500)]


@pytest.mark.parametrize("codec", [0, 1])
@pytest.mark.parametrize("dtype", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_float64(ctx, pack_matrix, shape, dtype, codec, assert_close):
    packed = pack_matrix(*shape, dtype, codec)
    pager, handle = packed.open(ctx)
    weights = to_float32(packed.patterns, packed.dtype).astype(np.float64)
    for n_rows in (1, 3, 63):
        x = np.random.default_rng(1).standard_normal((n_rows, shape[0])).astype(np.float32)
        assert_close(ops.paged_linear_transposed(ctx, pager, handle, x), x.astype(np.float64) @ weights, "reduction")
    pager.close()


@pytest.mark.parametrize("codec", [2, 3])
def test_integer_tiles_give_their_decoded_weights(ctx, pack_matrix, codec, assert_close):
    pager, handle = pack_matrix(131, 99, 3, codec).open(ctx)
    weights = ops.embed_rows(ctx, pager, handle, np.arange(131))
    x = np.random.default_rng(1).standard_normal((5, 131)).astype(np.float32)
    assert_close(ops.paged_linear_transposed(ctx, pager, handle, x), x @ weights.astype(np.float64), "reduction")
    pager.close()


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_do_not_depend_on_level_threads_rows_or_codec(native_contexts, pack_matrix, shape, same_bits):
    x = np.random.default_rng(2).standard_normal((63, shape[0])).astype(np.float32)
    wanted = None
    for codec in (0, 1):
        pager, handle = pack_matrix(*shape, 1, codec).open(native_contexts[0])
        for ctx in native_contexts:
            got = ops.paged_linear_transposed(ctx, pager, handle, x)
            wanted = got if wanted is None else wanted
            same_bits(got, wanted)
            for part in (slice(0, 1), slice(5, 12), slice(62, 63)):
                same_bits(ops.paged_linear_transposed(ctx, pager, handle, x[part].copy()), wanted[part])
        pager.close()


@pytest.mark.parametrize("policy", ["stable", "lru"])
def test_a_budget_of_three_tiles_and_many_workers(pack_matrix, same_bits, policy):
    """Workers that wait for their turn must not hold the memory that the one before them needs."""
    packed = pack_matrix(1500, 40)
    x = np.ones((2, 1500), np.float32)
    ample = ops.make_context(threads=1, backend="cpu")
    pager, handle = packed.open(ample)
    wanted = ops.paged_linear_transposed(ample, pager, handle, x)
    pager.close()
    ctx = ops.make_context(threads=8, backend="cpu")
    measured = ops.make_pager(ctx, 1 << 26, policy)
    measured.add_matrix("w", measured.add_file(str(packed.path)), packed.base_offset, packed.index)
    pager = ops.make_pager(ctx, measured.minimum_budget(), policy)
    handle = pager.add_matrix("w", pager.add_file(str(packed.path)), packed.base_offset, packed.index)
    pager.start([handle])
    for _ in range(20):
        same_bits(ops.paged_linear_transposed(ctx, pager, handle, x), wanted)
    pager.close()


def test_bad_arguments_are_named(ctx, pack_matrix):
    pager, handle = pack_matrix(65, 40).open(ctx)
    with pytest.raises(ValueError, match=r"\[paged_linear_transposed\] x must have 65 columns.* got 40"):
        ops.paged_linear_transposed(ctx, pager, handle, np.zeros((2, 40), np.float32))
    with pytest.raises(ValueError, match=r"\[paged_linear_transposed\] x must be float32, got float64"):
        ops.paged_linear_transposed(ctx, pager, handle, np.zeros((2, 65)))
    assert ops.paged_linear_transposed(ctx, pager, handle, np.zeros((0, 65), np.float32)).shape == (0, 40)
    pager.close()


def test_a_flipped_byte_is_a_corrupt_tile_for_all_workers(native_contexts, pack_matrix):
    packed = pack_matrix(700, 40)
    data = bytearray(packed.path.read_bytes())
    data[packed.base_offset + int(packed.index[3, 0]) + 100] ^= 4
    packed.path.write_bytes(data)
    for ctx in native_contexts:
        pager, handle = packed.open(ctx)
        with pytest.raises(errors.CorruptTileError) as caught:
            ops.paged_linear_transposed(ctx, pager, handle, np.zeros((1, 700), np.float32))
        assert caught.value.tile == 3
        pager.close()
