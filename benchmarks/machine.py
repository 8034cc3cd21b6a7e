"""The machine that a benchmark's numbers belong to, and the file they are written to.

`python -m benchmarks.machine` measures what the other benchmarks compare with: memory read bandwidth on one and two
threads, and the disk's rate past the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vortex_engine.machine import describe_machine, disk_read_rate, memory_read_bandwidth, o_direct_problem

RESULTS = Path(__file__).resolve().parent / "results"


def measure(folder: Path, *, disk_bytes: int = 512 << 20) -> dict[str, Any]:
    """Describe the machine and measure its memory and the disk under `folder`."""
    document: dict[str, Any] = describe_machine()
    for n_threads in (1, 2):
        document[f"read_bandwidth_{n_threads}_gb_s"] = memory_read_bandwidth(n_threads=n_threads, repeats=3) / 1e9
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".probe") as probe:
        block = np.random.default_rng(0).bytes(8 << 20)
        for _ in range(disk_bytes // len(block)):
            probe.write(block)
        probe.flush()
        os.fsync(probe.fileno())  # a direct read would wait for dirty pages to be written
        document["disk_read_mode"] = "buffered" if o_direct_problem(Path(probe.name)) else "o_direct"
        # As many requests under way as the pager has I/O threads.
        rates = [
            disk_read_rate(Path(probe.name), n_threads=4, max_bytes=disk_bytes, max_s=10.0) / 1e9 for _ in range(3)
        ]
        document["disk_read_gb_s"] = statistics.median(rates)
    return document


def interleaved_timings(
    contenders: Mapping[str, Callable[[], object]], *, repeats: int, burst: int = 4
) -> dict[str, dict[str, float]]:
    """Median and quartiles, in seconds, of contenders that take turns: a shared machine's weather hits all alike.

    A turn is a burst of calls, the first of which warms up and is not counted, so that one contender's threads and
    caches do not weigh on another.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            time.sleep(0.01)
            run()
            for _ in range(burst - 1):
                start = time.perf_counter()
                run()
                taken[name].append(time.perf_counter() - start)
    return {name: spread(values) for name, values in taken.items()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and interquartile range."""
    if len(values) == 1:
        return {"median": values[0], "q1": values[0], "q3": values[0]}
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


def write_result(name: str, machine: dict[str, Any], document: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write `folder/name.json`: the numbers with the machine they were measured on."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"schema": 1, "benchmark": name, "machine": machine, **document}, indent=2) + "\n")
    return path


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their columns; floats get three significant digits."""
    cells = [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    for line in [list(columns), *cells]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def base_parser(description: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", type=Path, default=None, help="folder for models (default: a temporary one)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON results")
    return parser


def main() -> None:
    """Measure and write results/machine.json."""
    arguments = base_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        document = measure(Path(folder))
    print(json.dumps(document, indent=2))
    print(write_result("machine", document, {}, arguments.results))


if __name__ == "__main__":
    main()
