"""Plain decoding of the 988 MB model inside memory cgroups of 600 and 800 million bytes, every run from a cold cache.

Ours runs at the best of a few budgets; llama.cpp maps its bf16 file. accelerate's disk offload and AirLLM get 900 MiB,
more than ours, since torch alone takes a quarter of that. What the disk allows is its rate, measured in the same turns
by reads without an engine, over the bytes that the budget leaves out.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.c3.disk import missing_ranges, read_seconds_per_byte
from benchmarks.c3.isolation import drop_page_cache, memory_group, run_script
from benchmarks.c3.llama import llama_bench
from benchmarks.c3.report import Figure, MissingPeerError, ratio
from benchmarks.c3.setting import Setting, codecs
from benchmarks.machine import print_table, spread
from vortex_engine.c3.directory import open_directory

LIMITS = {600_000_000: 4.0, 800_000_000: 8.0}  # bytes: target over llama.cpp
PEER_LIMIT = 900 << 20
# What the process needs besides the budget is found by trying; the smallest that survives is the best.
_BESIDES = (40_000_000, 55_000_000, 70_000_000, 90_000_000)
_DECODE_TOKENS = 24


def measure(setting: Setting) -> Figure:
    """Ours, llama.cpp and the Python peers, one after the other in each turn."""
    figure = Figure()
    figure.facts = {"shape": setting.shape, "threads": setting.threads, "bf16_bytes": setting.bf16_bytes()}
    try:
        drop_page_cache()
        with memory_group(PEER_LIMIT):
            pass
    except MissingPeerError as error:
        figure.skip(f"the whole figure: {error}")
        return figure
    exact: dict[int, float] = {}
    for limit, target in LIMITS.items():
        exact[limit] = _one_limit(setting, figure, limit, target)
    others = {name: run for name in ("accelerate", "airllm") if (run := _python_peer(setting, figure, name))}
    for name, run in others.items():
        figure.entries.append({"engine": name, "weights": "bf16", "limit_bytes": PEER_LIMIT, **run})
        speed = run["tokens_per_s"]["median"]
        figure.claim(f"exact inside 800 MB over {name} inside 944 MB", exact[800_000_000] / speed, ">=", 6.0)
    print_table(
        ("engine", "weights", "limit MB", "budget MB", "tokens/s", "MB a token", "disk allows", "peak RSS MB"),
        [
            [
                entry["engine"],
                entry["weights"],
                entry["limit_bytes"] / 1e6,
                entry.get("budget_bytes", 0) / 1e6,
                entry["tokens_per_s"]["median"],
                entry.get("bytes_per_token", 0.0) / 1e6,
                entry.get("disk_ceiling_tokens_per_s") or "-",
                entry.get("peak_rss_bytes", 0) / 1e6,
            ]
            for entry in figure.entries
        ],
    )
    return figure


def _one_limit(setting: Setting, figure: Figure, limit: int, target: float) -> float:
    """Measure one limit; the speed of `exact`."""
    best = {codec: _best_budget(setting, figure, codec, limit) for codec in codecs()}
    runs: dict[str, list[dict[str, Any]]] = {codec: [] for codec, budget in best.items() if budget}
    peer: list[dict[str, Any]] = []
    disk_s: dict[str, list[float]] = {codec: [] for codec in runs}
    for _ in range(setting.rounds(3)):
        for codec in runs:
            directory = open_directory(setting.packed(codec))
            missing = max(0, directory.compressed_bytes - best[codec])
            if missing:
                disk_s[codec].append(read_seconds_per_byte(*missing_ranges(directory, missing)))
            runs[codec].append(_ours(setting, codec, best[codec], limit, _DECODE_TOKENS))
        try:
            program, model = setting.llama("llama-bench"), setting.gguf("BF16")
            with memory_group(limit) as group:
                drop_page_cache()
                peer.append(
                    llama_bench(
                        program,
                        model,
                        threads=setting.threads,
                        prefill_tokens=0,
                        decode_tokens=8,
                        load_mode="mmap",
                        group=group,
                    )
                )
        except MissingPeerError as error:
            figure.skip(f"llama.cpp inside {limit / 1e6:.0f} MB: {error}")
    for codec, done in runs.items():
        figure.entries.append(_entry(setting, codec, limit, best[codec], done, disk_s[codec]))
    exact = next(entry for entry in figure.entries if entry["weights"] == "exact" and entry["limit_bytes"] == limit)
    speed = exact["tokens_per_s"]["median"]
    where = f"inside {limit / 1e6:.0f} MB"
    if peer:
        speeds = spread([run["decode_tokens_per_s"] for run in peer])
        entry = {"engine": "llama.cpp", "weights": "BF16", "limit_bytes": limit, "tokens_per_s": speeds}
        figure.entries.append({**entry, "build": peer[0]["build"]})
        figure.claim(f"exact over llama.cpp mmap {where}", speed / speeds["median"], ">=", target)
    if exact["disk_ceiling_tokens_per_s"]:
        figure.claim(f"exact over disk rate / missing bytes {where}", exact["share_of_disk"], ">=", 0.9)
    figure.claim(f"MB besides budget and KV {where}", exact["besides_bytes"] / 1e6, "<=", 90.0)
    return speed


def _best_budget(setting: Setting, figure: Figure, codec: str, limit: int) -> int:
    """The largest budget of the candidates that survives the limit; 0 when none does."""
    total = open_directory(setting.packed(codec)).compressed_bytes
    for besides in _BESIDES:
        budget = min(total, limit - besides)
        try:
            _ours(setting, codec, budget, limit, 2)
        except MissingPeerError as error:
            figure.facts.setdefault("budgets_that_failed", []).append(f"{codec}, {budget} of {limit}: {error}")
            continue
        return budget
    figure.skip(f"{codec} inside {limit}: no budget survives")
    return 0


def _ours(setting: Setting, codec: str, budget: int, limit: int, n_tokens: int) -> dict[str, Any]:
    job = {"model": str(setting.packed(codec)), "budget_bytes": budget, "threads": setting.threads}
    job |= {"warm_up_tokens": 3, "decode_tokens": n_tokens, "prefill_tokens": 0}
    with memory_group(limit) as group:
        drop_page_cache()
        return run_script("run_ours.py", job, group)


def _entry(
    setting: Setting, codec: str, limit: int, budget: int, runs: list[dict[str, Any]], disk_s: list[float]
) -> dict[str, Any]:
    if len({tuple(run["token_ids"]) for run in runs}) > 1:
        raise SystemExit(f"{codec} inside {limit}: two runs wrote different texts, nothing is reported")
    stats = runs[-1]["decode"]
    speed = spread([run["decode"]["tokens_per_s"] for run in runs])
    missing = max(0, open_directory(setting.packed(codec)).compressed_bytes - budget)
    ceiling = 1 / (statistics.median(disk_s) * missing) if disk_s else None
    n_sweeps = stats["n_new_tokens"]  # the prompt is one sweep, every token but the last another
    return {
        "engine": "vortex",
        "weights": codec,
        "limit_bytes": limit,
        "budget_bytes": budget,
        "tokens_per_s": speed,
        "bytes_per_token": stats["bytes_compressed_read"] / n_sweeps,
        "missing_bytes": missing,
        "disk_gb_s": 1e-9 / statistics.median(disk_s) if disk_s else None,
        "disk_ceiling_tokens_per_s": ceiling,
        "share_of_disk": ratio(speed["median"], ceiling),
        "peak_rss_bytes": max(run["peak_rss_bytes"] for run in runs),
        "group_peak_bytes": max(run["group_peak_bytes"] or 0 for run in runs),
        "besides_bytes": max(run["peak_rss_bytes"] - run["decode"]["peak_bytes"] - stats["kv_bytes"] for run in runs),
        "stats": stats,
    }


def _python_peer(setting: Setting, figure: Figure, name: str) -> dict[str, Any] | None:
    """Two turns of a peer that runs on torch, None when it cannot."""
    job: dict[str, Any] = {"model": str(setting.source()), "threads": setting.threads, "tokens": 2}
    job |= {"memory_bytes": setting.bf16_bytes() // 3, "offload": str(setting.work / "offload")}
    job |= {"shards": str(setting.work / f"{setting.shape}-airllm")}
    runs: list[dict[str, Any]] = []
    try:
        if name == "airllm":  # splits the checkpoint on its first run, which is not decoding
            run_script("run_airllm.py", {**job, "tokens": 1})
        for _ in range(setting.rounds(2)):
            with memory_group(PEER_LIMIT) as group:
                drop_page_cache()
                runs.append(run_script(f"run_{name}.py", job, group))
    except MissingPeerError as error:
        figure.skip(error)
        return None
    return {"tokens_per_s": spread([run["tokens_per_s"] for run in runs]), "details": runs[-1]}
