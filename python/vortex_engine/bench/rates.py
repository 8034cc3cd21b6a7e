"""What disk, memory and kernels do on their own, for one model on this machine."""

from __future__ import annotations

import functools
import json
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vortex_engine import ops
from vortex_engine.bench.bound import Rates
from vortex_engine.bench.explain import CodecRate
from vortex_engine.c3.directory import C3Directory, C3Matrix, open_directory
from vortex_engine.c3.layout import ACTIVATIONS, CODEC_IDS, LOSSY_CODECS
from vortex_engine.c3.pack import pack
from vortex_engine.machine import disk_read_rate, memory_read_bandwidth

__all__ = ["measure_codecs", "measure_rates", "packing_options"]

# A matrix of about this size stays in a last-level cache and still keeps every thread busy.
_CACHED_BYTES = 4 << 20
_KERNEL_S, _MIN_ROUNDS, _BURST = 0.2, 5, 3
_IO_THREADS = (4, 8)
_SAMPLE_ROWS, _SAMPLE_COLS = 2048, 1024


def measure_rates(directory: C3Directory, threads: int, activations: str) -> Rates:
    """Measure the machine with the model's own file and matrices; takes a few seconds.

    Args:
        directory: The model.
        threads: Of the run.
        activations: "float" or "int8", what its int8 and int4 tiles meet.
    """
    shard = next(iter(directory.matrices.values())).shard
    # Of the layers' matrices: a head or embedding is many times larger and shaped otherwise.
    inside = [matrix for name, matrix in directory.matrices.items() if ".layers." in name or ".h." in name]
    matrix = min(inside or directory.matrices.values(), key=lambda m: abs(np.log(max(1, m.n_bytes) / _CACHED_BYTES)))
    return Rates(
        disk_gb_s=max(disk_read_rate(shard, n_threads=n, max_s=0.5) for n in _IO_THREADS) / 1e9,
        memory_gb_s=memory_read_bandwidth(n_threads=threads, repeats=2) / 1e9,
        compute_gb_s=int(matrix.tiles.stored_bytes.sum())
        / _product_s([_Product(matrix, activations)], threads)[0]
        / 1e9,
        threads=threads,
    )


def measure_codecs(threads: int) -> dict[str, CodecRate]:
    """Size and speed of the codecs on one matrix of Gaussian bf16 weights, which trained ones resemble.

    A codec that stores such weights as `raw` does is left out; lossy ones are there once for each kind of activations.
    """
    values = np.random.default_rng(0).standard_normal((_SAMPLE_ROWS, _SAMPLE_COLS), dtype=np.float32)
    bits: dict[str, float] = {}
    lossless = set(CODEC_IDS) - LOSSY_CODECS
    products: dict[str, _Product] = {}
    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / "source"
        source.mkdir()
        _write_sample(source, values)
        for codec in CODEC_IDS:
            pack(source, Path(work) / codec, codec=codec, threads=threads)
            (matrix,) = open_directory(Path(work) / codec).matrices.values()
            tiles = matrix.tiles  # without the alignment, which weighs more on a small matrix
            n_bytes = int(tiles.prefix_bytes.sum() + tiles.residual_bytes.sum())
            if n_bytes >= 2 * values.size and codec != "raw":
                continue
            for activations in ACTIVATIONS if codec in LOSSY_CODECS else ACTIVATIONS[:1]:
                name = packing_options(codec, activations)
                bits[name], products[name] = n_bytes * 8 / values.size, _Product(matrix, activations)
        seconds = _product_s(list(products.values()), threads)
    return {
        name: CodecRate(bits[name], values.size / best / 1e9, lossless=name in lossless)
        for name, best in zip(products, seconds, strict=True)
    }


def packing_options(codec: str, activations: str) -> str:
    """What stands behind `vortex pack --codec` to get these; the name of a rate of `measure_codecs`."""
    return codec if activations == ACTIVATIONS[0] else f"{codec} --activations {activations}"


@dataclass(frozen=True)
class _Product:
    matrix: C3Matrix
    activations: str


def _write_sample(folder: Path, values: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> None:
    """A checkpoint that holds one matrix, with the low bits of a bf16 cut off."""
    bits = (values.view(np.uint32) >> np.uint32(16)).astype("<u2")
    header = json.dumps({"w": {"dtype": "BF16", "shape": bits.shape, "data_offsets": [0, bits.nbytes]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bits.tobytes())
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")


def _product_s(products: Sequence[_Product], threads: int) -> list[float]:
    """Seconds of paged_linear with one row: the best of many bursts for each matrix, which take turns."""
    ctx = ops.make_context(threads)
    pagers: list[Any] = []
    runs: list[Callable[[], object]] = []
    try:
        for product in products:
            matrix = product.matrix
            pager = ops.make_pager(ctx, 2 * matrix.n_bytes + (8 << 20))
            pagers.append(pager)
            handle = pager.add_matrix(matrix.name, pager.add_file(str(matrix.shard)), matrix.base_offset, matrix.index)
            pager.start([handle])
            x = np.ones((1, matrix.cols), np.float32)
            runs.append(functools.partial(ops.paged_linear, ctx, pager, [handle], x, [None], product.activations))
        best = [float("inf")] * len(runs)
        deadline = time.perf_counter() + _KERNEL_S * len(runs)
        n_rounds = 0
        while n_rounds < _MIN_ROUNDS or time.perf_counter() < deadline:
            n_rounds += 1
            for i, run in enumerate(runs):
                for _ in range(_BURST):
                    start = time.perf_counter()
                    run()
                    best[i] = min(best[i], time.perf_counter() - start)
    finally:
        for pager in pagers:
            pager.close()
    return best
