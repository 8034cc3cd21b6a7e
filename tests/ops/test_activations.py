"""Activations of 8 bits: how they are rounded, how far that moves a product, and one order of every sum."""

from __future__ import annotations

import numpy as np
import pytest

from vortex_engine import ops
from vortex_engine.ops.reference_integers import round_activations

RAW, EXACT, INT8, INT4 = 0, 1, 2, 3
SHAPES = [(1, 1), (64, 32), (67, 63), (500, 65), (130, 500)]


def activations(n_rows: int, cols: int, seed: int = 2) -> np.ndarray:
    """Rows whose groups differ in scale by orders of magnitude, with ties between two integers."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n_rows, cols)).astype(np.float32)
    x *= np.exp(3 * rng.standard_normal((n_rows, -(-cols // 32)))).astype(np.float32).repeat(32, axis=1)[:, :cols]
    x[0, :3] = np.array([127.0, 0.5, -1.5], np.float32)[:cols]
    return x


def rounded(x: np.ndarray) -> np.ndarray:
    values, scales = round_activations(x)
    return (values * scales[..., None].astype(np.float64)).reshape(len(x), -1)[:, : x.shape[1]]


def product(ctx, pager, handle, x) -> np.ndarray:
    return ops.paged_linear(ctx, pager, [handle], x, [None], "int8")[0]


def test_rounding_is_to_the_nearest_of_255_integers_with_ties_to_even():
    x = np.zeros((1, 40), np.float32)
    x[0, :6] = [127.0, 0.5, 1.5, -2.5, -63.51, 1e-9]
    x[0, 32:] = [1e-3, -1e-3, 3e-4, 0, 0, 0, 0, 0]
    values, scales = round_activations(x)
    assert values[0, 0, :6].tolist() == [127, 0, 2, -2, -64, 0]
    assert values[0, 1, :3].tolist() == [127, -127, 38] and not values[0, 1, 8:].any()
    np.testing.assert_array_equal(scales, [[1, np.float32(1e-3) / np.float32(127)]])
    wide = activations(20, 500)
    step = round_activations(wide)[1].repeat(32, axis=1)[:, :500]
    assert (np.abs(rounded(wide) - wide) <= step * 0.5001).all()


@pytest.mark.parametrize("codec", [INT8, INT4])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_backend_multiplies_the_rounded_rows(ctx, pack_matrix, shape, codec):
    pager, handle = pack_matrix(*shape, 1, codec).open(ctx)
    weights = ops.embed_rows(ctx, pager, handle, np.arange(shape[0])).astype(np.float64)
    for n_rows in (1, 2, 3, 4, 5, 33):
        x = activations(n_rows, shape[1])
        exact = rounded(x) @ weights.T
        scale = np.abs(rounded(x)) @ np.abs(weights.T) + 1e-12
        assert (np.abs(product(ctx, pager, handle, x) - exact) / scale).max() < 1e-6
    pager.close()


@pytest.mark.parametrize("codec", [INT8, INT4])
@pytest.mark.parametrize("shape", SHAPES)
def test_bits_do_not_depend_on_level_threads_or_rows(native_contexts, pack_matrix, shape, codec, same_bits):
    pager, handle = pack_matrix(*shape, 1, codec).open(native_contexts[0])
    x = activations(67, shape[1])
    wanted = product(native_contexts[0], pager, handle, x)
    for ctx in native_contexts:
        same_bits(product(ctx, pager, handle, x), wanted)
        for part in (slice(0, 1), slice(5, 7), slice(8, 11), slice(12, 17), slice(30, 67), slice(66, 67)):
            same_bits(product(ctx, pager, handle, x[part].copy()), wanted[part])
    pager.close()


@pytest.mark.parametrize(("codec", "worst"), [(INT8, 0.009), (INT4, 0.009)])
def test_the_error_on_gaussian_rows_is_that_of_8_bits(native_contexts, pack_matrix, codec, worst):
    ctx = native_contexts[0]
    pager, handle = pack_matrix(130, 500, 1, codec).open(ctx)
    x = np.random.default_rng(5).standard_normal((64, 500)).astype(np.float32)
    plain = ops.paged_linear(ctx, pager, [handle], x, [None])[0].astype(np.float64)
    error = np.sqrt(np.square(product(ctx, pager, handle, x) - plain).mean() / np.square(plain).mean())
    assert 0.003 < error < worst
    pager.close()


@pytest.mark.parametrize("codec", [INT8, INT4])
def test_rows_that_are_zero_tiny_huge_or_not_finite(ctx, pack_matrix, codec):
    pager, handle = pack_matrix(65, 96, 1, codec).open(ctx)
    x = activations(7, 96)
    x[0], x[1] = 0.0, np.float32(1e-38)
    x[2, 40], x[3, 5], x[4, 95] = np.nan, np.inf, -np.inf
    x[5, 64:] = np.float32(3.4e38)
    with np.errstate(over="ignore", invalid="ignore"):
        out = product(ctx, pager, handle, x)
    assert not out[0].any() and not out[1].any()
    assert np.isnan(out[2:5]).all()
    assert not np.isnan(out[5]).any() and np.isfinite(out[6]).all()
    pager.close()


@pytest.mark.parametrize("codec", [RAW, EXACT])
def test_other_tiles_take_the_rows_as_they_are(ctx, pack_matrix, codec, same_bits):
    pager, handle = pack_matrix(65, 96, 1, codec).open(ctx)
    x = activations(5, 96)
    same_bits(product(ctx, pager, handle, x), ops.paged_linear(ctx, pager, [handle], x, [None])[0])
    pager.close()


def test_matrices_of_both_codecs_share_a_call(native_contexts, pack_matrix, same_bits):
    ctx = native_contexts[-1]
    pager = ops.make_pager(ctx, 1 << 26)
    handles = []
    for codec in (INT8, INT4, EXACT):
        packed = pack_matrix(65, 96, 1, codec)
        handles.append(pager.add_matrix(str(codec), pager.add_file(str(packed.path)), packed.base_offset, packed.index))
    pager.start(handles)
    x = activations(5, 96)
    for handle, out in zip(handles, ops.paged_linear(ctx, pager, handles, x, [None] * 3, "int8"), strict=True):
        same_bits(out, product(ctx, pager, handle, x))
    pager.close()


def test_an_unknown_name_is_refused(ctx, pack_matrix):
    pager, handle = pack_matrix(65, 40).open(ctx)
    with pytest.raises(ValueError, match=r"\[paged_linear\] activations must be float or int8, got int4"):
        ops.paged_linear(ctx, pager, [handle], np.zeros((2, 40), np.float32), [None], "int4")
    pager.close()
