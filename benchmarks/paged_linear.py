"""paged_linear on tiles that are in RAM: codec exact beside raw bf16 tiles and torch's bf16 linear.

Every call reads another copy of the matrix, and the copies together exceed any cache: a model's weights are cold too.

Results are checked before anything is timed: exact and raw must agree bit for bit, and with a float64 product of the
same weights to float32 rounding.
"""

from __future__ import annotations

import functools
import itertools
import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import base_parser, interleaved_timings, measure, print_table, write_result
from make_model import to_bf16
from numpy.typing import NDArray

from vortex_engine import _native
from vortex_engine.c3.directory import open_directory
from vortex_engine.c3.pack import pack

SHAPES = ((4096, 16384), (4096, 4096), (11008, 4096), (4864, 896))
ROWS = (1, 2, 4, 8, 16)
COLD_BYTES = 1 << 30  # of copies: beyond the last-level cache of any machine we know


class PagedMatrix:
    """Copies of one packed matrix, every tile of them in RAM."""

    def __init__(self, folder: Path, pool: _native.Pool) -> None:
        matrix = next(iter(open_directory(folder).matrices.values()))
        self.n_bytes = int(matrix.tiles.stored_bytes.sum())
        n_copies = -(-COLD_BYTES // self.n_bytes)
        self._pool = pool
        self._pager = _native.Pager(self.n_bytes * n_copies)
        file = self._pager.add_file(str(matrix.shard))
        handles = [
            self._pager.add_matrix(f"{matrix.name} {i}", file, matrix.base_offset, matrix.index)
            for i in range(n_copies)
        ]
        self._pager.start(handles)
        self._handles = itertools.cycle(handles)
        for _ in handles:
            self.linear(np.zeros((1, matrix.cols), np.float32))

    def linear(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """x [M, K] times the matrix, from its next copy."""
        return _native.paged_linear(self._pool, self._pager, [next(self._handles)], x, [None])[0]


def write_checkpoint(folder: Path, bits: NDArray[np.uint16]) -> None:
    """A checkpoint directory that holds one bf16 matrix."""
    folder.mkdir()
    header = {"w": {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [0, bits.nbytes]}}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bits.tobytes())
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")


def check(name: str, got: NDArray[np.float32], expected: NDArray[np.float64]) -> None:
    """Refuse to time a wrong result."""
    error = float(np.sqrt(np.mean((got - expected) ** 2) / np.mean(expected**2)))
    if not error < 1e-5:
        raise SystemExit(f"{name}: relative error {error:.2e}, nothing is timed")


def torch_linear(bits: NDArray[np.uint16], n_threads: int) -> Any:
    """A function x -> torch bf16 linear of it, None without torch."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(n_threads)
    weight = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
    weights = itertools.cycle([weight.clone() for _ in range(-(-COLD_BYTES // bits.nbytes))])

    def run(x: NDArray[np.float32]) -> object:
        with torch.inference_mode():
            return torch.nn.functional.linear(torch.from_numpy(x).to(torch.bfloat16), next(weights))

    return run


def run_shape(folder: Path, rows: int, cols: int, pool: _native.Pool, repeats: int) -> list[dict[str, Any]]:
    """Time one matrix at every number of input rows."""
    generator = np.random.default_rng(0)
    values = generator.standard_normal((rows, cols), dtype=np.float32) * np.float32(0.02)
    bits = to_bf16(values)
    write_checkpoint(folder / "source", bits)
    packed: dict[str, PagedMatrix] = {}
    for codec in ("exact", "raw"):
        pack(folder / "source", folder / codec, codec=codec)
        packed[codec] = PagedMatrix(folder / codec, pool)
    weights = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    reference = torch_linear(bits, pool.n_threads)
    measured: list[dict[str, Any]] = []
    for m in ROWS:
        x = generator.standard_normal((m, cols), dtype=np.float32)
        expected = x.astype(np.float64) @ weights.T.astype(np.float64)
        results = {codec: matrix.linear(x) for codec, matrix in packed.items()}
        check(f"exact {rows}x{cols} M={m}", results["exact"], expected)
        if not np.array_equal(results["exact"].view(np.uint32), results["raw"].view(np.uint32)):
            raise SystemExit(f"{rows}x{cols} M={m}: exact and raw differ, nothing is timed")
        entry: dict[str, Any] = {"rows": rows, "cols": cols, "m": m, "exact_bytes": packed["exact"].n_bytes}
        contenders: dict[str, Callable[[], object]] = {
            f"{codec}_s": functools.partial(matrix.linear, x) for codec, matrix in packed.items()
        }
        if reference is not None:
            contenders["torch_bf16_s"] = functools.partial(reference, x)
        measured.append(entry | interleaved_timings(contenders, repeats=repeats))
    return measured


def main() -> None:
    """Measure every shape and write results/paged_linear.json."""
    parser = base_parser(__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--shape", action="append", help="ROWSxCOLS; may be given several times")
    arguments = parser.parse_args()
    shapes = [tuple(map(int, shape.split("x"))) for shape in arguments.shape] if arguments.shape else SHAPES
    pool = _native.Pool(arguments.threads, _native.simd_levels()[0])
    entries: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        machine = measure(Path(work))
    for rows, cols in shapes:
        with tempfile.TemporaryDirectory(dir=arguments.work) as work:
            entries += run_shape(Path(work), rows, cols, pool, arguments.repeats)
    bandwidth = machine[f"read_bandwidth_{min(2, arguments.threads)}_gb_s"]
    table: list[list[object]] = []
    first_exact_s = 0.0
    for entry in entries:
        exact_s, raw_s = entry["exact_s"]["median"], entry["raw_s"]["median"]
        first_exact_s = exact_s if entry["m"] == ROWS[0] else first_exact_s
        entry["exact_gb_s"] = entry["exact_bytes"] / exact_s / 1e9
        entry["exact_share_of_bandwidth"] = entry["exact_gb_s"] / bandwidth
        entry["exact_over_raw"] = raw_s / exact_s
        entry["cost_over_one_row"] = exact_s / first_exact_s
        torch_s = entry.get("torch_bf16_s", {}).get("median")
        entry["exact_over_torch"] = None if torch_s is None else torch_s / exact_s
        table.append(
            [
                f"{entry['rows']}x{entry['cols']}",
                entry["m"],
                exact_s * 1e3,
                raw_s * 1e3,
                "-" if torch_s is None else torch_s * 1e3,
                entry["exact_over_raw"],
                "-" if torch_s is None else entry["exact_over_torch"],
                entry["cost_over_one_row"],
                entry["exact_gb_s"],
                f"{entry['exact_share_of_bandwidth']:.0%}",
            ]
        )
    print_table(
        ("matrix", "M", "exact ms", "raw ms", "torch ms", "vs raw", "vs torch", "vs M=1", "GB/s", "of bandwidth"), table
    )
    document = {"threads": pool.n_threads, "simd": pool.simd, "repeats": arguments.repeats, "entries": entries}
    print(write_result("paged_linear", machine, document, arguments.results))


if __name__ == "__main__":
    main()
