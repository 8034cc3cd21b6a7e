"""Triton kernels run on the GPU where there is one, otherwise in Triton's interpreter on CPU tensors."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from vortex_engine.kernels import support

from vortex_engine import ops

if TYPE_CHECKING:
    from vortex_engine.kernels.tiles import EncodedTile

# Triton decides between interpreter and device when a kernel is defined, so before any test imports one.
if find_spec("triton") is not None and find_spec("torch") is not None and support.reason_against() is not None:
    os.environ["TRITON_INTERPRET"] = "1"

GAP = b"\xff" * 64  # around every range: what a kernel reads outside of one is NaN


@pytest.fixture(scope="session")
def encode() -> Callable[..., list[EncodedTile]]:
    """encode(patterns, dtype, codec, tiles=None): tiles (row0, n_rows, col0, n_cols) of a matrix; None: one tile."""
    from vortex_engine.kernels.tiles import EncodedTile

    ctx = ops.make_context(threads=1, backend="cpu")

    def run(
        patterns: np.ndarray, dtype: int, codec: int, tiles: list[tuple[int, int, int, int]] | None = None
    ) -> list[EncodedTile]:
        rows, cols = patterns.shape
        tiles = tiles or [(0, rows, 0, cols)]
        slab = np.frombuffer(patterns.tobytes(), np.uint8)
        parts = ops.tile_encode(ctx, slab, rows, cols, dtype, codec, tiles)
        return [
            EncodedTile(used_codec, used_dtype, *tile, prefix, residual)
            for tile, (prefix, residual, used_codec, used_dtype) in zip(tiles, parts, strict=True)
        ]

    return run


@pytest.fixture(scope="session")
def place() -> Callable[[list[EncodedTile]], tuple[Any, list[Any]]]:
    """Puts tiles into an arena on the device, poison between their ranges."""
    import torch
    from vortex_engine.kernels.tiles import device

    def run(tiles: list[EncodedTile]) -> tuple[Any, list[Any]]:
        data, placed = bytearray(GAP), []
        for tile in tiles:
            offsets = []
            for part in (tile.prefix, tile.residual):
                offsets.append(len(data))
                data += part + GAP + b"\xff" * (-len(part) % 16)
            placed.append(tile.placed(*offsets))
        return torch.from_numpy(np.frombuffer(data, np.uint8).copy()).to(device()), placed

    return run


ITEM = {1: np.uint16, 2: np.uint16, 3: np.uint32}
MANTISSA_BITS = {1: 7, 2: 10, 3: 23}


def gaussian(rows: int, cols: int, dtype: int, scale: float = 0.02) -> np.ndarray:
    """Bit patterns of a Gaussian matrix."""
    values = (scale * np.random.default_rng(rows + cols).standard_normal((rows, cols))).astype(np.float32)
    if dtype == 2:
        return values.astype(np.float16).view(np.uint16)
    return (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == 1 else values.view(np.uint32)


def every_exponent(rows: int, cols: int, dtype: int) -> np.ndarray:
    """A Gaussian matrix with every sign and exponent in it: subnormals, infinities, zeros, NaN payloads."""
    rng = np.random.default_rng(dtype)
    bits, n_exponents = MANTISSA_BITS[dtype], 32 if dtype == 2 else 256
    special = np.arange(2 * n_exponents, dtype=np.uint64) << np.uint64(bits)
    full = np.uint64((1 << bits) - 1)
    edges = [special[[0, n_exponents - 1, n_exponents, 2 * n_exponents - 1]] | np.uint64(m) for m in (0, 1, full)]
    special = np.concatenate([special | rng.integers(0, full, special.size, np.uint64, endpoint=True), *edges])
    patterns = gaussian(rows, cols, dtype).copy()
    places = rng.choice(patterns.size, special.size, replace=False)
    patterns.reshape(-1)[places] = special.astype(ITEM[dtype])
    return patterns


@pytest.fixture(scope="session")
def patterns() -> Callable[[str, int], np.ndarray]:
    """patterns(name, dtype): small matrices that cover a codec's cases."""
    many_near = {dtype: gaussian(64, 64, dtype).copy() for dtype in ITEM}
    for dtype, weights in many_near.items():
        weights[:, 8:16] = 1 << MANTISSA_BITS[dtype]  # a block with more small weights than its near list holds
    upcast = {**{dtype: gaussian(65, 9, dtype) for dtype in (1, 2)}, 3: gaussian(70, 30, 3) & np.uint32(0xFFFF0000)}
    cases = {
        "gaussian": {dtype: gaussian(70, 37, dtype) for dtype in ITEM},
        "every_exponent": {dtype: every_exponent(130, 61, dtype) for dtype in ITEM},
        "many_near": many_near,
        "upcast": upcast,
        "one": {dtype: gaussian(1, 1, dtype) for dtype in ITEM},
        "odd": {dtype: every_exponent(63, 67, dtype)[:, :9] for dtype in ITEM},
        "zero": {dtype: np.zeros((65, 9), ITEM[dtype]) for dtype in ITEM},
    }
    return lambda name, dtype: np.ascontiguousarray(cases[name][dtype])
