"""Packing speed per core and the peak memory of a process that packs, on a random model of a real shape."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import base_parser, measure, print_table, spread, write_result
from make_model import SHAPES, make_model

# Runs alone in a fresh process, so that the peak is packing's own.
_PACK = """
import json, sys, time
import vortex_engine as vx
from vortex_engine.machine import peak_rss_bytes
start = time.perf_counter()
report = vx.pack(sys.argv[1], sys.argv[2], codec=sys.argv[3], threads=int(sys.argv[4]))
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "peak_rss_bytes": peak_rss_bytes(), "report": report.to_dict()}))
"""


def pack_once(source: Path, target: Path, codec: str, n_threads: int) -> dict[str, Any]:
    """Pack in a process of its own."""
    command = [sys.executable, "-c", _PACK, str(source), str(target), codec, str(n_threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    """Measure and write results/packing.json."""
    parser = base_parser(__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2-0.5b")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    entries: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        folder = Path(work)
        machine = measure(folder)
        n_bytes = make_model(folder / "source", arguments.shape)
        for codec in ("exact", "raw"):
            for n_threads in (1, 2):
                runs: list[dict[str, Any]] = []
                for number in range(arguments.repeats):
                    target = folder / f"{codec}-{n_threads}-{number}.c3"
                    runs.append(pack_once(folder / "source", target, codec, n_threads))
                    for path in target.iterdir():
                        path.unlink()
                    target.rmdir()
                seconds = spread([run["seconds"] for run in runs])
                entries.append(
                    {
                        "codec": codec,
                        "threads": n_threads,
                        "source_bytes": n_bytes,
                        "seconds": seconds,
                        "mb_s_per_core": n_bytes / seconds["median"] / 1e6 / n_threads,
                        "peak_rss_bytes": max(run["peak_rss_bytes"] for run in runs),
                        "packed_bytes": runs[0]["report"]["packed_bytes"],
                    }
                )
    print_table(
        ("codec", "threads", "seconds", "MB/s per core", "peak RSS MB", "packed / bf16"),
        [
            [
                entry["codec"],
                entry["threads"],
                entry["seconds"]["median"],
                entry["mb_s_per_core"],
                entry["peak_rss_bytes"] / 1e6,
                entry["packed_bytes"] / n_bytes,
            ]
            for entry in entries
        ],
    )
    print(write_result("packing", machine, {"shape": arguments.shape, "entries": entries}, arguments.results))


if __name__ == "__main__":
    main()
