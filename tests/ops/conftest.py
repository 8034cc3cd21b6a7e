"""Every implementation of every op, one tolerance table, and matrices written as a packed model writes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vortex_engine import _native, ops
from vortex_engine.ops import registry

# Largest relative RMS error against float64.
TOLERANCE = {"exact": 0.0, "elementwise": 3e-7, "reduction": 2e-6}

BACKENDS = [
    (backend, simd) for backend in registry.BACKENDS for simd in (_native.simd_levels() if backend == "cpu" else [None])
]


@pytest.fixture(params=BACKENDS, ids=lambda param: "-".join(filter(None, param)))
def ctx(request: pytest.FixtureRequest) -> ops.OpContext:
    """A context of every implementation and SIMD level this machine can run."""
    backend, simd = request.param
    return ops.make_context(threads=2, simd=simd, backend=backend)


@pytest.fixture(scope="session")
def native_contexts() -> list[ops.OpContext]:
    """Native contexts that must give equal bits: every SIMD level with 1, 2, 3 and 5 threads."""
    return [
        ops.make_context(threads=threads, simd=simd, backend="cpu")
        for simd in reversed(_native.simd_levels())
        for threads in (1, 2, 3, 5)
    ]


@pytest.fixture
def assert_close() -> Callable[[np.ndarray, np.ndarray, str], None]:
    def check(got: np.ndarray, wanted: np.ndarray, kind: str) -> None:
        assert got.shape == wanted.shape and got.dtype == np.float32
        assert np.isfinite(got).all()
        exact = wanted.astype(np.float64)
        error = np.sqrt(np.mean((got - exact) ** 2)) / max(np.sqrt(np.mean(exact**2)), 1e-30)
        assert error <= TOLERANCE[kind], f"relative RMS error {error:.3g}"

    return check


@pytest.fixture
def same_bits() -> Callable[[np.ndarray, np.ndarray], None]:
    def check(got: np.ndarray, wanted: np.ndarray) -> None:
        assert got.shape == wanted.shape and got.dtype == wanted.dtype == np.float32
        np.testing.assert_array_equal(got.view(np.uint32), wanted.view(np.uint32))

    return check


@pytest.fixture(autouse=True)
def poison_fresh_memory() -> None:
    """Freed memory full of NaN: an output that a kernel forgets to write shows."""
    blocks = [np.full(size, np.nan, np.float32) for size in (64, 500, 4096, 32768)]
    del blocks


@dataclass(frozen=True)
class PackedMatrix:
    """A shard with one matrix: its index, its bit patterns and its dtype id."""

    path: Path
    index: np.ndarray
    patterns: np.ndarray
    dtype: int
    base_offset: int = 4096

    def open(self, ctx: ops.OpContext) -> tuple[object, int]:
        pager = ops.make_pager(ctx, 1 << 26)
        handle = pager.add_matrix("w", pager.add_file(str(self.path)), self.base_offset, self.index)
        pager.start([handle])
        return pager, handle


def random_patterns(rows: int, cols: int, dtype: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)
    values[0, 0], values[-1, -1] = 0.0, -0.0
    if dtype == 2:
        return values.astype(np.float16).view(np.uint16)
    bits = values.view(np.uint32)
    return (bits >> np.uint32(16)).astype(np.uint16) if dtype == 1 else bits.copy()


@pytest.fixture
def pack_matrix(tmp_path: Path) -> Callable[..., PackedMatrix]:
    """Writes a matrix [rows, cols] as tiles of `tile_rows` rows; wide ones of 64 rows are cut in two column ranges."""
    encoder = ops.make_context(threads=1, backend="cpu")

    def pack(rows: int, cols: int, dtype: int = 1, codec: int = 1, seed: int = 0, tile_rows: int = 64) -> PackedMatrix:
        patterns = random_patterns(rows, cols, dtype, seed)
        cut = cols // 64 * 32 if tile_rows == 64 else 0
        columns = [(0, cols)] if cut == 0 else [(0, cut), (cut, cols - cut)]
        tiles = [(r, min(tile_rows, rows - r), c, n) for r in range(0, rows, tile_rows) for c, n in columns]
        slab = np.frombuffer(patterns.tobytes(), np.uint8)
        encoded = ops.tile_encode(encoder, slab, rows, cols, dtype, codec, tiles)
        data, index = bytearray(), []
        for (row0, n_rows, col0, n_cols), (prefix, residual, tile_codec, tile_dtype) in zip(
            tiles, encoded, strict=True
        ):
            offsets = []
            for part in (prefix, residual):
                offsets.append(len(data) if part else 0)
                data += part + bytes(-len(part) % 4096)
            index.append(
                [
                    *offsets,
                    len(prefix) | len(residual) << 32,
                    _native.crc32c(prefix) | (_native.crc32c(residual) if residual else 0) << 32,
                    tile_codec | tile_dtype << 8 | dtype << 16,
                    row0 | n_rows << 32,
                    col0 | n_cols << 32,
                    0,
                ]
            )
        path = tmp_path / f"{rows}x{cols}-{dtype}-{codec}-{seed}.shard"
        path.write_bytes(bytes(4096) + data)
        return PackedMatrix(path, np.array(index, np.uint64), patterns, dtype)

    return pack
