"""Decoding a model of the 0.5B shape (988 MB of bf16): everything in RAM, and inside a memory limit.

All in RAM, the speed stands beside (measured read bandwidth / bf16 bytes): what an engine that reads bf16 weights could
reach at best. Inside the limit, with a cold page cache, it stands beside (measured disk rate / missing bytes). The
limit is a memory cgroup where one can be made (version 1 hierarchy, as root); elsewhere only the peak RSS is checked,
and the result says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from machine import base_parser, measure, print_table, spread, write_result
from make_model import SHAPES, make_model

import vortex_engine as vx
from vortex_engine.belady import best_hit_rate, sweep_tile_bytes
from vortex_engine.c3.directory import open_directory

_CGROUPS = Path("/sys/fs/cgroup/memory")
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")

# Runs alone in a fresh process, so that its peak is the engine's own.
_CHILD = """
import json, sys
import vortex_engine as vx
from vortex_engine.machine import peak_rss_bytes
path, budget, threads, n_tokens, policy, warm_up = sys.argv[1:]
with vx.load(path, ram_budget=int(budget), threads=int(threads), policy=policy) as model:
    prompt = [(7919 * i + 1) % model.vocab_size for i in range(16)]
    # The first sweeps fill the budget; the speed is that of the steady state.
    model.generate(prompt, max_new_tokens=int(warm_up), ignore_eos=True)
    out = model.generate(prompt, max_new_tokens=int(n_tokens), ignore_eos=True)
print(json.dumps({"stats": dict(out.stats), "token_ids": list(out.token_ids), "peak_rss_bytes": peak_rss_bytes()}))
"""


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Generator[Path | None]:
    """A fresh memory cgroup of that size, None where none can be made; removed at the end."""
    group = _CGROUPS / f"vortex-bench-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
    except OSError as error:
        print(f"no memory cgroup ({error}): only the peak RSS is checked", file=sys.stderr)
        with contextlib.suppress(OSError):
            group.rmdir()
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()


def drop_page_cache() -> bool:
    """Empty the page cache; False where this process may not."""
    os.sync()
    try:
        _DROP_CACHES.write_text("3")
    except OSError:
        return False
    return True


def run_child(
    packed: Path, budget: int, threads: int, n_tokens: int, policy: str, group: Path | None = None
) -> dict[str, Any]:
    """Generate in a process of its own, inside `group` where given."""
    command = [sys.executable, "-c", _CHILD, str(packed), str(budget), str(threads), str(n_tokens), policy, "3"]
    if group is not None:
        command = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"), *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the measured process failed ({done.returncode}):\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    if group is not None:
        result["cgroup_peak_bytes"] = int((group / "memory.max_usage_in_bytes").read_text())
    return result


def entry(name: str, runs: list[dict[str, Any]], ceiling: float, tiles: list[int]) -> dict[str, Any]:
    """One row: the spread of the runs, the ceiling, and the counters of the last run."""
    stats = runs[-1]["stats"]
    n_accesses = stats["hits"] + stats["prefetch_hits"] + stats["page_faults"]
    n_sweeps = -(-stats["n_prompt_tokens"] // stats["prefill_chunk"]) + stats["n_new_tokens"] - 1
    speed = spread([run["stats"]["tokens_per_s"] for run in runs])
    return {
        "name": name,
        "budget_bytes": stats["budget_bytes"],
        "tokens_per_s": speed,
        "ceiling_tokens_per_s": ceiling,
        "share_of_ceiling": speed["median"] / ceiling,
        "peak_rss_bytes": max(run["peak_rss_bytes"] for run in runs),
        "cgroup_peak_bytes": max(
            (run["cgroup_peak_bytes"] for run in runs if "cgroup_peak_bytes" in run), default=None
        ),
        "hit_rate": stats["hits"] / n_accesses,
        "best_hit_rate": best_hit_rate(
            tiles,
            n_accesses=n_accesses,
            n_sweeps=n_sweeps,
            budget_bytes=stats["budget_bytes"],
            n_cold_sweeps=0,
        ),
        "bytes_read_per_sweep": stats["bytes_compressed_read"] / n_sweeps,
        "stats": stats,
    }


def main() -> None:
    """Measure and write results/decode_05b.json."""
    parser = base_parser(__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2-0.5b")
    parser.add_argument("--limit", type=int, default=600_000_000, help="bytes of the memory cgroup")
    parser.add_argument("--limited-budget", type=int, default=500_000_000, help="--ram-budget inside the limit")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        folder = Path(work)
        machine = measure(folder)
        bf16_bytes = make_model(folder / "source", arguments.shape)
        packed = folder / "model.c3"
        vx.pack(folder / "source", packed, codec="exact")
        (folder / "source" / "model.safetensors").unlink()
        tiles = sweep_tile_bytes(open_directory(packed))
        total = sum(tiles)
        bandwidth = machine[f"read_bandwidth_{min(2, arguments.threads)}_gb_s"] * 1e9
        everything = [
            run_child(packed, total, arguments.threads, arguments.tokens, "stable") for _ in range(arguments.repeats)
        ]
        entries = [entry("all in RAM", everything, bandwidth / bf16_bytes, tiles)]
        disk_ceiling = machine["disk_read_gb_s"] * 1e9 / max(1, total - arguments.limited_budget)
        cold = True
        enforced = True
        for policy in ("stable", "lru"):
            limited: list[dict[str, Any]] = []
            for _ in range(arguments.repeats):
                with memory_group(arguments.limit) as group:
                    enforced = enforced and group is not None
                    cold = drop_page_cache() and cold
                    limited.append(
                        run_child(packed, arguments.limited_budget, arguments.threads, arguments.tokens, policy, group)
                    )
            entries.append(entry(f"limit {arguments.limit / 1e6:.0f} MB, {policy}", limited, disk_ceiling, tiles))
            if limited[0]["token_ids"] != everything[0]["token_ids"]:
                raise SystemExit("the text inside the limit differs: no speed is reported")
    print_table(
        ("run", "tokens/s", "ceiling", "share", "peak RSS MB", "hit rate", "best", "MB a sweep"),
        [
            [
                row["name"],
                row["tokens_per_s"]["median"],
                row["ceiling_tokens_per_s"],
                f"{row['share_of_ceiling']:.0%}",
                row["peak_rss_bytes"] / 1e6,
                f"{row['hit_rate']:.1%}",
                f"{row['best_hit_rate']:.1%}",
                row["bytes_read_per_sweep"] / 1e6,
            ]
            for row in entries
        ],
    )
    document = {
        "shape": arguments.shape,
        "bf16_bytes": bf16_bytes,
        "packed_tile_bytes": total,
        "limit_bytes": arguments.limit,
        "limit_enforced_by_cgroup": enforced,
        "cold_page_cache": cold,
        "inside_limit": all(row["peak_rss_bytes"] <= arguments.limit for row in entries[1:]),
        "entries": entries,
    }
    print(write_result("decode_05b", machine, document, arguments.results))


if __name__ == "__main__":
    main()
