"""Packing speed on one core and on two, per codec, and the peak memory of a process that packs."""

from __future__ import annotations

import shutil
import statistics
from typing import Any

from benchmarks.c3.isolation import run_script
from benchmarks.c3.report import Figure
from benchmarks.c3.setting import LOSSLESS, LOSSY, Setting, present
from benchmarks.machine import print_table, spread

TARGET_MB_S = 300.0


def measure(setting: Setting) -> Figure:
    """Pack the same checkpoint, which the first run leaves in the page cache, with every codec."""
    figure = Figure()
    n_bytes = setting.bf16_bytes()
    figure.facts = {"shape": setting.shape, "bf16_bytes": n_bytes}
    cases = [(codec, n_threads) for codec in present((*LOSSLESS, *LOSSY)) for n_threads in (1, 2)]
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {case: [] for case in cases}
    target = setting.work / "packing.c3"
    for _ in range(setting.rounds(2)):
        for codec, n_threads in cases:
            shutil.rmtree(target, ignore_errors=True)
            job = {"source": str(setting.source()), "target": str(target), "codec": codec, "threads": n_threads}
            runs[codec, n_threads].append(run_script("run_pack.py", job))
    shutil.rmtree(target)
    for (codec, n_threads), done in runs.items():
        seconds = spread([run["seconds"] for run in done])
        entry: dict[str, Any] = {"codec": codec, "threads": n_threads, "seconds": seconds}
        entry |= {"mb_s": n_bytes / seconds["median"] / 1e6, "packed_bytes": done[0]["packed_bytes"]}
        entry["peak_rss_bytes"] = max(run["peak_rss_bytes"] for run in done)
        figure.entries.append(entry)
    for codec in present(("exact", "exact12")):
        one_core = statistics.median(run["seconds"] for run in runs[codec, 1])
        mb_s = n_bytes / one_core / 1e6
        figure.claim(f"`{codec}` packing, MB/s of bf16", mb_s, ">=", TARGET_MB_S, peer="one core")
    print_table(
        ("codec", "threads", "MB/s", "packed / bf16", "peak RSS MB"),
        [
            [e["codec"], e["threads"], e["mb_s"], e["packed_bytes"] / n_bytes, e["peak_rss_bytes"] / 1e6]
            for e in figure.entries
        ],
    )
    return figure
