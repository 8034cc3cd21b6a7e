"""Triton's paged_linear: close to float64, in the order it states, with equal bits for all rows, tiles and codecs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from vortex_engine.kernels import support

from vortex_engine import _native, ops
from vortex_engine.ops.reference_codec import to_float32

if reason := support.reason_against():
    pytest.skip(reason, allow_module_level=True)

import torch
from vortex_engine.kernels import paged_linear as kernel
from vortex_engine.kernels.paged_linear import paged_linear
from vortex_engine.kernels.resident import ResidentMatrices
from vortex_engine.kernels.tiles import DeviceMatrix

TOLERANCE = 2e-6  # relative RMS error against float64
RAW, EXACT, INT8, INT4 = 0, 1, 2, 3


@pytest.fixture
def matrix(encode, place):
    """matrix(patterns, dtype, codec, tiles=None): a DeviceMatrix."""

    def make(source: np.ndarray, dtype: int, codec: int, tiles=None) -> DeviceMatrix:
        return DeviceMatrix(*place(encode(source, dtype, codec, tiles)))

    return make


def random(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def few_bits(values: np.ndarray) -> np.ndarray:
    """The bf16 patterns of values: products with other such numbers are exact in float32."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def multiply(weights: DeviceMatrix, x: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    device = weights.arena.device
    on_device = None if bias is None else torch.from_numpy(bias).to(device)
    return paged_linear(weights, torch.from_numpy(x).to(device), on_device).cpu().numpy()


def assert_close(got: np.ndarray, exact: np.ndarray) -> None:
    assert got.shape == exact.shape and got.dtype == np.float32 and np.isfinite(got).all()
    assert np.sqrt(np.mean((got - exact) ** 2)) <= TOLERANCE * np.sqrt(np.mean(exact**2))


def same_bits(got: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_array_equal(got.view(np.uint32), wanted.view(np.uint32))


@pytest.mark.parametrize("dtype", [1, 2, 3])
@pytest.mark.parametrize("codec", [RAW, EXACT])
def test_matches_float64(matrix, patterns, dtype, codec):
    source = patterns("gaussian", dtype)
    weights = matrix(source, dtype, codec)
    assert weights.variants == 1 << (4 * codec + dtype)
    handles = ResidentMatrices()
    handle = handles.add_matrix(weights)
    assert handles.shape(handle) == source.shape
    x, bias = random((3, source.shape[1])), random((source.shape[0],), 1)
    exact = x.astype(np.float64) @ to_float32(source, dtype).astype(np.float64).T
    run = ops.select("paged_linear", "triton").bind(None)
    plain, biased = run(handles, [handle, handle], x, [None, bias])
    assert_close(plain, exact)
    assert_close(biased, exact + bias)


@pytest.mark.parametrize("codec", [INT8, INT4])
def test_integer_tiles_multiply_the_weights_they_decode_to(encode, place, patterns, codec):
    source = patterns("gaussian", 1)
    cut = [(0, 64, 0, 32), (0, 64, 32, 5), (64, 6, 0, 37)]
    tiles = encode(source, 1, codec, cut)
    weights = DeviceMatrix(*place(tiles))
    assert weights.variants == 1 << (4 * codec + 3)
    decoded = np.full(source.shape, np.nan)
    for tile, (row0, n_rows, col0, n_cols) in zip(tiles, cut, strict=True):
        bits = _native.decode_tile(codec, 3, n_rows, n_cols, tile.prefix, tile.residual)
        decoded[row0 : row0 + n_rows, col0 : col0 + n_cols] = bits.view(np.float32)
    x = random((3, 37))
    got = multiply(weights, x)
    assert_close(got, x.astype(np.float64) @ decoded.T)
    same_bits(multiply(weights, x[1:2].copy()), got[1:2])


@pytest.mark.parametrize("shape", [(1, 1), (63, 301), (67, 64)])
def test_odd_shapes_and_fresh_memory(matrix, shape, monkeypatch):
    monkeypatch.setattr(kernel.torch, "empty", lambda shape, **options: torch.full(shape, torch.nan, **options))
    source = few_bits(random(shape))
    exact = random((5, shape[1]), 2).astype(np.float64) @ to_float32(source, 1).astype(np.float64).T
    assert_close(multiply(matrix(source, 1, RAW), random((5, shape[1]), 2)), exact)
    assert multiply(matrix(source, 1, RAW), np.zeros((0, shape[1]), np.float32)).shape == (0, shape[0])


def stated_order(x: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The order of the kernel's docstring, in float32 whose products are exact."""
    total = None
    for begin in range(0, x.shape[1], 256):
        chains = np.zeros((8, len(x), len(weights)), np.float32)
        for k in range(begin, min(begin + 256, x.shape[1])):
            chains[k % 8] += x[:, k, None] * weights[None, :, k]
        while len(chains) > 1:
            chains = chains[0::2] + chains[1::2]
        total = chains[0] if total is None else total + chains[0]
    assert total is not None
    return total + bias


def test_order_is_the_one_stated(matrix):
    source, values = few_bits(random((63, 525))), few_bits(random((2, 525), 1))
    x, bias = to_float32(values, 1), random((63,), 2)
    wanted = stated_order(x, to_float32(source, 1), bias)
    assert (wanted != (x @ to_float32(source, 1).T + bias)).any()
    same_bits(multiply(matrix(source, 1, RAW), x, bias), wanted)


def test_bits_do_not_depend_on_rows(matrix):
    weights = matrix(few_bits(random((64, 264))), 1, RAW)
    x = random((17, 264), 1)
    wanted = multiply(weights, x)
    for part in (slice(0, 1), slice(5, 8), slice(16, 17), slice(1, 17)):
        same_bits(multiply(weights, x[part].copy()), wanted[part])


def test_bits_do_not_depend_on_tiles_or_codec(matrix, encode, place):
    source = few_bits(0.02 * random((66, 267)))
    x = random((2, 267), 1)
    wanted = multiply(matrix(source, 1, RAW), x)
    same_bits(multiply(matrix(source, 1, RAW, [(64, 2, 0, 267), (0, 64, 0, 267)]), x), wanted)
    cut = [
        (row0, n_rows, *columns) for row0, n_rows in ((0, 64), (64, 2)) for columns in ((0, 40), (40, 200), (240, 27))
    ]
    raw, exact = encode(source, 1, RAW, cut), encode(source, 1, EXACT, cut)
    mixed = DeviceMatrix(*place([exact[0], raw[1], exact[2], raw[3], exact[4], raw[5]]))
    assert mixed.variants == 1 << 1 | 1 << 5
    same_bits(multiply(mixed, x), wanted)


def test_padding_of_a_tile_is_not_read(encode, place):
    source = few_bits(0.02 * random((64, 48)))
    clean = source[:, :45].copy()
    source[:, 45:] = 0x7FC0
    (tile,) = encode(source, 1, EXACT)
    assert tile.codec == EXACT
    padded = DeviceMatrix(*place([replace(tile, n_cols=45)]))
    assert padded.cols == 45
    x = random((2, 45))
    assert_close(multiply(padded, x), x.astype(np.float64) @ to_float32(clean, 1).astype(np.float64).T)


def test_bad_arguments_are_named(matrix, encode, place):
    source = few_bits(random((128, 16)))
    weights = matrix(source, 1, RAW)
    device = weights.arena.device
    x = torch.zeros((2, 16), device=device)
    cases = [
        (x[:, :15].contiguous(), None, r"\[paged_linear\] x must be .*\[2, 16\].*got .*\(2, 15\)"),
        (x.double(), None, r"\[paged_linear\] x must be .*got torch.float64"),
        (x.T.contiguous().T, None, r"\[paged_linear\] x must be contiguous"),
        (x[0], None, r"\[paged_linear\] x must be .*got .*\(16,\)"),
        (x, torch.zeros(127, device=device), r"\[paged_linear\] bias must be .*\[128\].*got .*\(127,\)"),
    ]
    for bad_x, bias, message in cases:
        with pytest.raises(ValueError, match=message):
            paged_linear(weights, bad_x, bias)
    arena, placed = place(encode(source, 1, RAW, [(0, 64, 0, 8), (0, 64, 8, 8), (64, 64, 0, 16)]))
    for bad in (placed[1:], placed[:2] + placed[:1], [placed[0], placed[2]], [*placed, placed[1]]):
        with pytest.raises(ValueError, match=r"\[paged_linear\] the tiles must cover the matrix exactly"):
            DeviceMatrix(arena, bad)
    with pytest.raises(ValueError, match=r"\[paged_linear\] a tile must start and end at whole panels"):
        DeviceMatrix(arena, [replace(placed[2], row0=32)])
    with pytest.raises(ValueError, match=r"\[paged_linear\] a matrix must have at least one tile, got 0"):
        DeviceMatrix(arena, [])
    run = ops.select("paged_linear", "triton").bind(None)
    with pytest.raises(ValueError, match=r"\[paged_linear\] pager must be a ResidentMatrices.*got object"):
        run(object(), [0], np.zeros((1, 16), np.float32), [None])
    with pytest.raises(ValueError, match=r"\[paged_linear\] handle must be .*got 0"):
        run(ResidentMatrices(), [0], np.zeros((1, 16), np.float32), [None])
