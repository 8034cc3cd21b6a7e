"""How little the pager reads, and how well reading hides behind computing, at 25, 50, 75 and 90 % of the weights.

Bytes a token stand beside those of Belady's policy, which knows the future, and beside the weights that the budget
leaves out, below which no policy can go. A sweep's time stands beside the longer of two times measured in the same
turns: the same number of bytes read without computing, and the same sweep computed with every weight in RAM.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.c3.disk import missing_ranges, read_seconds_per_byte
from benchmarks.c3.isolation import run_script
from benchmarks.c3.report import Figure
from benchmarks.c3.setting import Setting
from benchmarks.machine import print_table, spread
from vortex_engine.belady import belady_bytes_per_sweep, sweep_tile_bytes
from vortex_engine.c3.directory import open_directory

FRACTIONS = (0.25, 0.5, 0.75, 0.9)
_DECODE_TOKENS = 16


def measure(setting: Setting) -> Figure:
    """Every budget, in turns with its two bounds."""
    figure = Figure()
    model = setting.packed("exact")
    directory = open_directory(model)
    tiles = sweep_tile_bytes(directory)
    total = sum(tiles)
    figure.facts = {"shape": setting.shape, "threads": setting.threads, "codec": "exact", "packed_tile_bytes": total}
    budgets = {fraction: int(total * fraction) for fraction in FRACTIONS}
    compute: list[float] = []
    runs: dict[float, list[dict[str, Any]]] = {fraction: [] for fraction in FRACTIONS}
    disk: dict[float, list[float]] = {fraction: [] for fraction in FRACTIONS}
    texts: set[tuple[int, ...]] = set()
    for _ in range(setting.rounds(3)):
        resident = _run(setting, str(model), total)
        texts.add(tuple(resident["token_ids"]))
        compute.append(1 / resident["decode"]["tokens_per_s"])
        for fraction, budget in budgets.items():
            run = _run(setting, str(model), budget)
            texts.add(tuple(run["token_ids"]))
            runs[fraction].append(run)
            missing = run["decode"]["bytes_compressed_read"] / run["decode"]["n_new_tokens"]
            disk[fraction].append(missing * read_seconds_per_byte(*missing_ranges(directory, missing)))
    if len(texts) != 1:
        raise SystemExit("the text differs between budgets, nothing is reported")
    compute_s = statistics.median(compute)
    for fraction, budget in budgets.items():
        sweep_s = statistics.median(1 / run["decode"]["tokens_per_s"] for run in runs[fraction])
        stats = runs[fraction][-1]["decode"]
        read = stats["bytes_compressed_read"] / stats["n_new_tokens"]
        belady = belady_bytes_per_sweep(tiles, budget)
        io_s = statistics.median(disk[fraction])
        entry: dict[str, Any] = {"fraction": fraction, "budget_bytes": budget, "bytes_per_token": read}
        entry |= {"belady_bytes_per_token": belady, "over_belady": read / belady}
        entry |= {"missing_bytes": total - budget, "over_missing": read / (total - budget)}
        entry |= {"tokens_per_s": spread([run["decode"]["tokens_per_s"] for run in runs[fraction]])}
        entry |= {"sweep_s": sweep_s, "io_alone_s": io_s, "compute_alone_s": compute_s}
        entry |= {"over_longer": sweep_s / max(io_s, compute_s), "stats": stats}
        figure.entries.append(entry)
    _claim(figure, "bytes read a token", "over_belady", 1.02, "Belady's policy")
    _claim(figure, "sweep time", "over_longer", 1.08, "max(I/O alone, compute alone)")
    print_table(
        ("budget", "MB a token", "Belady MB", "over", "sweep s", "I/O alone s", "compute alone s", "over longer"),
        [
            [
                f"{entry['fraction']:.0%}",
                entry["bytes_per_token"] / 1e6,
                entry["belady_bytes_per_token"] / 1e6,
                f"{entry['over_belady']:.3f}",
                entry["sweep_s"],
                entry["io_alone_s"],
                entry["compute_alone_s"],
                f"{entry['over_longer']:.3f}",
            ]
            for entry in figure.entries
        ],
    )
    return figure


def _claim(figure: Figure, what: str, key: str, target: float, peer: str) -> None:
    """The worst of the budgets, with all of them behind it."""
    budgets = "/".join(f"{entry['fraction']:.0%}".rstrip("%") for entry in figure.entries)
    detail = " / ".join(f"{entry[key]:.3f}" for entry in figure.entries)
    worst = max(entry[key] for entry in figure.entries)
    figure.claim(f"{what}, budgets {budgets} %, the worst", worst, "<=", target, peer=peer, detail=detail)


def _run(setting: Setting, model: str, budget: int) -> dict[str, Any]:
    job = {"model": model, "budget_bytes": budget, "threads": setting.threads}
    return run_script("run_ours.py", {**job, "warm_up_tokens": 3, "decode_tokens": _DECODE_TOKENS, "prefill_tokens": 0})
