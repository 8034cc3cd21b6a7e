"""Plain decoding of the 988 MB model inside memory cgroups of 600 and 800 million bytes, every run from a cold cache.

Ours runs at the best of a few budgets; llama.cpp maps its bf16 file. accelerate's disk offload and AirLLM get 900 MiB,
more than ours, since torch alone takes a quarter of that. What the disk allows is its rate, measured in the same turns
by reads without an engine, over the bytes that the budget leaves out.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from benchmarks.c3.disk import missing_ranges, read_seconds_per_byte
from benchmarks.c3.isolation import drop_page_cache, memory_group, run_script
from benchmarks.c3.llama import llama_bench
from benchmarks.c3.report import Figure, MissingPeerError, ratio
from benchmarks.c3.setting import Setting, present
from benchmarks.machine import print_table, spread
from vortex_engine.c3.directory import open_directory

# The others fit the limits, or read more than these.
CODECS = ("exact", "exact12", "int8")
LIMITS = {600_000_000: 4.0, 800_000_000: 8.0}  # bytes: target over llama.cpp
PEER_LIMIT = 900 << 20
# What the process needs besides the budget is found by trying; the smallest that survives is the best. Less than its
# 44 MB survives too, but then the kernel takes the program's own pages away again and again.
_BESIDES = (50_000_000, 60_000_000, 75_000_000, 90_000_000)
_DECODE_TOKENS, _PEER_TOKENS = 24, 8
_OFFLOAD_TARGET, _DISK_TARGET, _BESIDES_TARGET_MB = 6.0, 0.9, 90.0


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
        limit = max(LIMITS)
        figure.claim(
            f"`exact` decode inside {limit / 1e6:.0f} MB",
            exact[limit] / speed,
            ">=",
            _OFFLOAD_TARGET,
            peer=f"{name}, inside {PEER_LIMIT / 1e6:.0f} MB",
            detail=f"{exact[limit]:.2f} over {speed:.2f} tokens/s",
        )
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


@dataclass
class _Contender:
    """A codec inside a limit, at the largest of its budgets that has not failed yet."""

    codec: str
    limit: int
    budgets: list[int]
    runs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    disk_s: list[float] = field(default_factory=list[float])  # a byte of those that the budget leaves out

    def run(self, setting: Setting, figure: Figure) -> None:
        """One more run; where it does not survive, one at the next budget, and none of those before counts."""
        directory = open_directory(setting.packed(self.codec))
        while self.budgets:
            budget = self.budgets[0]
            try:
                self.runs.append(_ours(setting, self.codec, budget, self.limit))
            except MissingPeerError as error:
                line = f"{self.codec}, {budget} of {self.limit}: {error}"
                figure.facts.setdefault("budgets_that_failed", []).append(line)
                del self.budgets[0], self.runs[:], self.disk_s[:]
                continue
            if missing := max(0, directory.compressed_bytes - budget):
                self.disk_s.append(read_seconds_per_byte(*missing_ranges(directory, missing)))
            return
        figure.skip(f"{self.codec} inside {self.limit}: no budget survives")


def _one_limit(setting: Setting, figure: Figure, limit: int, target: float) -> float:
    """Measure one limit; the speed of `exact`."""
    contenders: list[_Contender] = []
    for codec in present(CODECS):
        total = open_directory(setting.packed(codec)).compressed_bytes
        budgets = dict.fromkeys(min(total, limit - besides) for besides in _BESIDES)
        contenders.append(_Contender(codec, limit, list(budgets)))
    peer: list[dict[str, Any]] = []
    for _ in range(setting.rounds(3)):
        for contender in contenders:
            contender.run(setting, figure)
        try:
            peer.append(_llama(setting, limit))
        except MissingPeerError as error:
            figure.skip(f"llama.cpp inside {limit / 1e6:.0f} MB: {error}")
    figure.entries += [_entry(setting, contender) for contender in contenders if contender.runs]
    if not contenders[0].runs:
        raise SystemExit(f"exact inside {limit}: no budget survives, nothing is reported")
    exact = next(entry for entry in figure.entries if entry["weights"] == "exact" and entry["limit_bytes"] == limit)
    speed = exact["tokens_per_s"]["median"]
    where = f"inside {limit / 1e6:.0f} MB"
    if peer:
        speeds = spread([run["decode_tokens_per_s"] for run in peer])
        entry = {"engine": "llama.cpp", "weights": "BF16", "limit_bytes": limit, "tokens_per_s": speeds}
        figure.entries.append({**entry, "build": peer[0]["build"]})
        detail = f"{speed:.2f} over {speeds['median']:.2f} tokens/s"
        what = f"`exact` decode {where}"
        figure.claim(what, speed / speeds["median"], ">=", target, peer="llama.cpp BF16, mmap", detail=detail)
    if exact["disk_ceiling_tokens_per_s"]:
        detail = f"{speed:.2f} of {exact['disk_ceiling_tokens_per_s']:.2f} tokens/s"
        bound = "disk rate / missing bytes"
        share = exact["share_of_disk"]
        figure.claim(f"`exact` decode {where}", share, ">=", _DISK_TARGET, peer=bound, detail=detail)
    mb = exact["besides_bytes"] / 1e6
    figure.claim(f"MB of the process {where}", mb, "<=", _BESIDES_TARGET_MB, peer="what budget and KV leave")
    return speed


def _llama(setting: Setting, limit: int) -> dict[str, Any]:
    program, model = setting.llama("llama-bench"), setting.gguf("BF16")
    with memory_group(limit) as group:
        drop_page_cache()
        options: dict[str, Any] = {"prefill_tokens": 0, "decode_tokens": _PEER_TOKENS, "load_mode": "mmap"}
        return llama_bench(program, model, threads=setting.threads, group=group, **options)


def _ours(setting: Setting, codec: str, budget: int, limit: int) -> dict[str, Any]:
    job = {"model": str(setting.packed(codec)), "budget_bytes": budget, "threads": setting.threads}
    job |= {"warm_up_tokens": 3, "decode_tokens": _DECODE_TOKENS, "prefill_tokens": 0}
    with memory_group(limit) as group:
        drop_page_cache()
        return run_script("run_ours.py", job, group)


def _entry(setting: Setting, contender: _Contender) -> dict[str, Any]:
    runs, budget = contender.runs, contender.budgets[0]
    if len({tuple(run["token_ids"]) for run in runs}) > 1:
        raise SystemExit(f"{contender.codec}: two runs wrote different texts, nothing is reported")
    stats = runs[-1]["decode"]
    speed = spread([run["decode"]["tokens_per_s"] for run in runs])
    missing = max(0, open_directory(setting.packed(contender.codec)).compressed_bytes - budget)
    disk_s = statistics.median(contender.disk_s) if missing else None
    ceiling = None if disk_s is None else 1 / (disk_s * missing)
    n_sweeps = stats["n_new_tokens"]  # the prompt is one sweep, every token but the last another
    return {
        "engine": "vortex",
        "weights": contender.codec,
        "limit_bytes": contender.limit,
        "budget_bytes": budget,
        "tokens_per_s": speed,
        "bytes_per_token": stats["bytes_compressed_read"] / n_sweeps,
        "missing_bytes": missing,
        "disk_gb_s": None if disk_s is None else 1e-9 / disk_s,
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
