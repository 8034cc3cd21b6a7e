"""paged_linear on tiles in RAM, every codec at M = 1 … 16, beside a read-only STREAM of the same threads.

Every call reads another copy of the matrix and the copies together exceed the caches: a model's weights are cold too.
Before anything is timed, the product must match a float64 product of the weights that the engine itself unpacks, and
those of a lossless codec must be the source's bits.
"""

from __future__ import annotations

import functools
import itertools
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.c3.report import Figure, MissingPeerError
from benchmarks.c3.setting import LOSSLESS, LOSSY, Setting, Variant, present, variants
from benchmarks.c3.weights import Bits, unpacked, write_checkpoint
from benchmarks.machine import interleaved_timings, print_table
from benchmarks.make_model import to_bf16
from vortex_engine import ops
from vortex_engine.c3.directory import open_directory
from vortex_engine.c3.pack import pack
from vortex_engine.machine import memory_read_bandwidth

SHAPES = ((4096, 16384), (4864, 896))
ROWS = (1, 2, 4, 8, 16)
_COLD_BYTES = 512 << 20  # of copies: many times the last-level cache of a machine with two or a few cores
Linear = Callable[[NDArray[np.float32]], object]
# A product of rounded activations cannot match one in float64 to float32 rounding.
_TOLERANCE, _ROUNDED_TOLERANCE = 1e-5, 2e-2
_TARGET = 0.8


class ColdMatrix:
    """Copies of one packed matrix, every tile of them in RAM."""

    def __init__(self, folder: Path, ctx: ops.OpContext, cold_bytes: int) -> None:
        matrix = next(iter(open_directory(folder).matrices.values()))
        self.n_bytes = int(matrix.tiles.stored_bytes.sum())
        n_copies = -(-cold_bytes // self.n_bytes)
        self._ctx = ctx
        self._pager = ops.make_pager(ctx, self.n_bytes * n_copies)
        file = self._pager.add_file(str(matrix.shard))
        handles = [
            self._pager.add_matrix(f"{matrix.name} {i}", file, matrix.base_offset, matrix.index)
            for i in range(n_copies)
        ]
        self._pager.start(handles)
        self._handles = itertools.cycle(handles)
        for _ in handles:
            self.linear(np.zeros((1, matrix.cols), np.float32), {})

    def linear(self, x: NDArray[np.float32], options: dict[str, Any]) -> NDArray[np.float32]:
        """x [M, K] times the matrix, from its next copy."""
        return ops.paged_linear(self._ctx, self._pager, [next(self._handles)], x, [None], **options)[0]

    def close(self) -> None:
        """Give the memory back."""
        self._pager.close()


def measure(setting: Setting) -> Figure:
    """Time every codec on every shape."""
    figure = Figure()
    ctx = ops.make_context(setting.threads)
    figure.facts = {"threads": ctx.threads, "simd": ctx.simd}
    for rows, cols in ((512, 512),) if setting.quick else SHAPES:
        _measure_shape(setting, figure, ctx, rows, cols)
    for codec in present(("exact", "exact12")):
        first = next(entry for entry in figure.entries if entry["codec"] == codec and entry["m"] == 1)
        figure.claim(
            f"`{codec}` GEMV, {first['rows']} x {first['cols']}, one row: compressed bytes a second",
            first["share_of_stream"],
            ">=",
            _TARGET,
            peer=f"read-only STREAM, {ctx.threads} threads",
            detail=f"{first['compressed_gb_s']:.1f} of {first['stream_gb_s']:.1f} GB/s",
        )
    columns = ("matrix", "codec", "M", "ms", "GB/s", "STREAM GB/s", "of STREAM", "vs M=1", "Gweights/s")
    keys = ("codec", "m", "ms", "compressed_gb_s", "stream_gb_s", "share_of_stream", "cost_over_one_row", "gweights_s")
    print_table(columns, [[f"{e['rows']}x{e['cols']}", *(e[key] for key in keys)] for e in figure.entries])
    return figure


def _measure_shape(setting: Setting, figure: Figure, ctx: ops.OpContext, rows: int, cols: int) -> None:
    generator = np.random.default_rng(0)
    bits = to_bf16(generator.standard_normal((rows, cols), dtype=np.float32) * np.float32(0.02))
    inputs = {m: generator.standard_normal((m, cols), dtype=np.float32) for m in ROWS}
    folder = setting.work / "gemv"
    shutil.rmtree(folder, ignore_errors=True)
    write_checkpoint(folder / "source", {"w": bits})
    cold_bytes = 8 << 20 if setting.quick else _COLD_BYTES
    matrices: dict[str, ColdMatrix] = {}
    sizes: dict[str, int] = {}
    calls: dict[str, Linear] = {}
    for variant in variants((*LOSSLESS, *LOSSY)):
        codec = variant.codec
        if codec not in matrices:
            pack(folder / "source", folder / codec, codec=codec)
            matrices[codec] = ColdMatrix(folder / codec, ctx, cold_bytes)
        _check(variant, folder / codec, bits, matrices[codec], inputs)
        sizes[variant.name] = matrices[codec].n_bytes
        calls[variant.name] = functools.partial(matrices[codec].linear, options=variant.options)
    try:
        calls["torch bf16"] = _torch_linear(bits, ctx.threads, cold_bytes)
        sizes["torch bf16"] = bits.nbytes
    except MissingPeerError as error:
        figure.skip(error)
    streams: list[float] = []

    def stream() -> None:
        streams.append(memory_read_bandwidth(n_threads=ctx.threads, buffer_bytes=cold_bytes, repeats=1))

    contenders: dict[str, Callable[[], object]] = {
        f"{name} {m}": functools.partial(linear, x) for name, linear in calls.items() for m, x in inputs.items()
    }
    taken = interleaved_timings({**contenders, "stream": stream}, repeats=setting.rounds(4 if cols > 4096 else 12))
    stream_gb_s = statistics.median(streams) / 1e9
    for matrix in matrices.values():
        matrix.close()
    for codec, n_bytes in sizes.items():
        for m in ROWS:
            seconds = taken[f"{codec} {m}"]
            rate = n_bytes / seconds["median"] / 1e9
            entry: dict[str, Any] = {"rows": rows, "cols": cols, "codec": codec, "m": m, "bytes": n_bytes}
            entry |= {"seconds": seconds, "ms": seconds["median"] * 1e3, "compressed_gb_s": rate}
            entry |= {"stream_gb_s": stream_gb_s, "share_of_stream": rate / stream_gb_s}
            entry["cost_over_one_row"] = seconds["median"] / taken[f"{codec} {ROWS[0]}"]["median"]
            entry["gweights_s"] = rows * cols / seconds["median"] / 1e9
            figure.entries.append(entry)
    shutil.rmtree(folder)


def _torch_linear(bits: Bits, n_threads: int, cold_bytes: int) -> Linear:
    """torch's bf16 linear over copies of the matrix."""
    try:
        import torch
    except ImportError as error:
        raise MissingPeerError("torch: pip install 'vortex-engine[peers]'") from error
    torch.set_num_threads(n_threads)
    weight = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
    weights = itertools.cycle([weight.clone() for _ in range(-(-cold_bytes // bits.nbytes))])

    def run(x: NDArray[np.float32]) -> object:
        with torch.inference_mode():
            return torch.nn.functional.linear(torch.from_numpy(x).to(torch.bfloat16), next(weights))

    return run


def _check(
    variant: Variant, folder: Path, source: Bits, matrix: ColdMatrix, inputs: dict[int, NDArray[np.float32]]
) -> None:
    """Refuse to time a wrong result."""
    weights = dict(unpacked(open_directory(folder)))["w"]
    if variant.codec in LOSSLESS and not np.array_equal(weights.view(np.uint32) >> np.uint32(16), source):
        raise SystemExit(f"{variant.name}: the weights are not the source's bits, nothing is timed")
    for m, x in inputs.items():
        expected = x.astype(np.float64) @ weights.T.astype(np.float64)
        error = float(np.sqrt(np.mean((matrix.linear(x, variant.options) - expected) ** 2) / np.mean(expected**2)))
        if not error < (_TOLERANCE if variant.codec in LOSSLESS else _ROUNDED_TOLERANCE):
            raise SystemExit(f"{variant.name}, M = {m}: relative error {error:.2e}, nothing is timed")
