"""The slow half of the doctor: every tile, every bf16 pattern, and the same bits at every SIMD level and budget."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np

from vortex_engine.errors import CorruptTileError, VortexError

__all__ = ["compare_bits", "round_trip_every_bf16", "verify_tiles"]

_BF16, _EXACT = 1, 1
_FRACTIONS = (1.0, 0.25)
_PROMPT = "def add(a, b):\n"
_MAX_NEW_TOKENS = 12


def verify_tiles(model: str) -> str:
    """Read every tile of a model and check checksum and structure.

    Raises:
        CorruptTileError: A tile is not what was packed.
    """
    from vortex_engine.c3.inspect import inspect_directory
    from vortex_engine.decode.load import model_path

    report = inspect_directory(model_path(model), verify=True)
    return f"{report.n_tiles} tiles read, every checksum holds"


def round_trip_every_bf16() -> str:
    """Encode and decode a matrix that holds all 65,536 bf16 patterns among ordinary weights.

    Raises:
        CorruptTileError: A pattern came back changed.
    """
    from vortex_engine import _native

    rows, cols, tile_rows = 1024, 1024, 256
    generator = np.random.default_rng(0)
    values = generator.standard_normal((rows, cols), dtype=np.float32) * np.float32(0.02)
    bits = (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    places = generator.permutation(bits.size)[: 1 << 16]
    bits.reshape(-1)[places] = np.arange(1 << 16, dtype=np.uint16)
    tiles = [(row, tile_rows, 0, cols) for row in range(0, rows, tile_rows)]
    for simd in _native.simd_levels():
        pool = _native.Pool(1, simd)
        encoded = _native.encode_tiles(pool, bits.view(np.uint8).reshape(-1), rows, cols, _BF16, _EXACT, tiles)
        for (row, n_rows, _, n_cols), (prefix, residual, codec, dtype) in zip(tiles, encoded, strict=True):
            decoded = _native.decode_tile(codec, dtype, n_rows, n_cols, prefix, residual)
            if codec != _EXACT or not np.array_equal(decoded, bits[row : row + n_rows]):
                raise CorruptTileError(f"[doctor] codec exact changed a bf16 pattern at SIMD level {simd}")
    return "all 65,536 bf16 patterns survive codec exact"


def compare_bits(model: str) -> str:
    """Generate at every SIMD level and at two budgets and compare ids and logits bit for bit.

    Raises:
        VortexError: Two of them differ.
    """
    import vortex_engine as vx
    from vortex_engine import _native
    from vortex_engine.c3.directory import open_directory
    from vortex_engine.decode.load import model_path

    total_bytes = open_directory(model_path(model)).compressed_bytes
    seen: dict[str, str] = {}
    for simd in _native.simd_levels():
        for fraction in _FRACTIONS:
            with _forced_simd(simd), vx.load(model, ram_budget=int(total_bytes * fraction)) as loaded:
                out = loaded.generate(_PROMPT, max_new_tokens=_MAX_NEW_TOKENS)
                logits = loaded.logits([*loaded.tokenizer.encode(_PROMPT), *out.token_ids])
            digest = hashlib.sha256(repr(out.token_ids).encode() + logits.tobytes()).hexdigest()
            seen[f"{simd} at {fraction:.0%}"] = digest
    if len(set(seen.values())) > 1:
        raise VortexError("[doctor] results differ: " + ", ".join(f"{k} {v[:12]}" for k, v in seen.items()))
    return f"same text, same logits: {', '.join(seen)}"


@contextmanager
def _forced_simd(simd: str) -> Generator[None]:
    before = os.environ.get("VORTEX_SIMD")
    os.environ["VORTEX_SIMD"] = simd
    try:
        yield
    finally:
        if before is None:
            del os.environ["VORTEX_SIMD"]
        else:
            os.environ["VORTEX_SIMD"] = before
