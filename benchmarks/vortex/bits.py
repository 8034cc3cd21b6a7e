"""Bits per byte of code and of prose: a llama, the V-block model, and that without each of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.c3.report import Figure
from benchmarks.c3.setting import Setting
from benchmarks.machine import print_table
from benchmarks.vortex.gate import gated
from benchmarks.vortex.language_arms import BLOCK, LLAMA, language_arms
from benchmarks.vortex.text_runs import BATCH_TOKENS, KINDS, LENGTH, VOCAB, kept, prepare, run_folder

_STEPS = 300
_RATES = (2e-3, 5e-3, 1.2e-2)
_SEEDS = (0, 1, 2)


def measure(setting: Setting) -> Figure:
    """Each arm with every rate and one seed, then the best rate with the other seeds."""
    figure = Figure()
    steps, rates, seeds = (2, _RATES[:1], _SEEDS[:1]) if setting.quick else (_STEPS, _RATES, _SEEDS)
    texts = prepare(setting.work / "texts")
    figure.facts = {"steps": steps, "batch_tokens": BATCH_TOKENS, "length": LENGTH, "vocab": VOCAB}
    figure.facts |= {"rates": rates, "seeds": seeds, "text": "half code, half prose"}
    folder = setting.work / "bits"
    for name, section in language_arms(VOCAB).items():
        swept = [kept(folder, texts, name, section, rate, seeds[0], steps, setting.threads) for rate in rates]
        best = min(swept, key=_both)
        runs = [best] + [
            kept(folder, texts, name, section, best["rate"], seed, steps, setting.threads) for seed in seeds[1:]
        ]
        found: dict[str, Any] = {"arm": name, "parameters": best["parameters"], "rate": best["rate"]}
        for kind in KINDS:
            bits = [run[kind] for run in runs]
            found |= {kind: float(np.mean(bits)), f"{kind} spread": float(max(bits) - min(bits))}
        figure.entries.append(found | {"swept": swept, "runs": runs})
    shown = ("arm", "parameters", "rate", *KINDS, *(f"{kind} spread" for kind in KINDS))
    print_table(shown, [[entry[column] for column in shown] for entry in figure.entries])
    arms = {entry["arm"]: entry for entry in figure.entries}
    block = arms[BLOCK]["runs"][0]
    out = run_folder(folder, BLOCK, block["rate"], block["seed"], steps)
    figure.facts["gate"] = gated(language_arms(VOCAB)[BLOCK], out, texts, folder / "tokens")
    print_table(tuple(figure.facts["gate"][0]), [list(entry.values()) for entry in figure.facts["gate"]])
    for kind in KINDS:
        ours, theirs = arms[BLOCK][kind], arms[LLAMA][kind]
        worst = ", ".join(f"{name} {entry[kind]:.3f}" for name, entry in arms.items() if name not in (BLOCK, LLAMA))
        figure.claim(
            f"bits a byte of {kind}, V-block over llama, {arms[BLOCK]['parameters'] / 1e6:.2f} M parameters",
            ours / theirs,
            "<=",
            1.0,
            peer="llama architecture, equal parameters and tokens, best rate of three",
            detail=f"{ours:.3f} over {theirs:.3f}; {worst}",
        )
    return figure


def _both(run: Mapping[str, Any]) -> float:
    return sum(run[kind] for kind in KINDS)
