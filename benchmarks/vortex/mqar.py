"""Associative recall at the length of training and at sixteen times that, for the learning rate that suits each arm."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.c3.report import Figure, MissingPeerError
from benchmarks.c3.setting import Setting
from benchmarks.machine import print_table
from benchmarks.vortex.arms import ARMS, MEMORY, QUADRUPLE, arm
from benchmarks.vortex.recall_task import NO_LABEL, recall_task

_VOCAB, _LENGTH, _FACTOR = 512, 64, 16
_PAIRS = (4, 8, 16)  # in training
_RATES = (1e-3, 3e-3, 1e-2)
_SEEDS = (0, 1, 2)
_STEPS, _BATCH = 1200, 64
# Length and pairs of the tests.
_TESTS = {"trained": (_LENGTH, 16), "longer": (_FACTOR * _LENGTH, 16), "longer, more pairs": (_FACTOR * _LENGTH, 128)}


def measure(setting: Setting) -> Figure:
    """Train every arm with every rate and seed; the rate of an arm is the one with the best mean as trained."""
    figure = Figure()
    steps, rates, seeds = (2, _RATES[:1], _SEEDS[:1]) if setting.quick else (_STEPS, _RATES, _SEEDS)
    figure.facts = {"steps": steps, "batch": _BATCH, "rates": rates, "seeds": seeds, "vocab": _VOCAB, "tests": _TESTS}
    folder = setting.work / "mqar"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ARMS:
        runs = [_kept(folder, name, rate, seed, steps, setting.threads) for rate in rates for seed in seeds]
        by_rate = {rate: [run for run in runs if run["rate"] == rate] for rate in rates}
        best = max(rates, key=lambda rate: _mean(by_rate[rate], "trained"))
        figure.entries.append(
            {"arm": name, "parameters": runs[0]["parameters"], "rate": best}
            | {test: _mean(by_rate[best], test) for test in _TESTS}
            | {"runs": runs}
        )
    shown = ("arm", "parameters", "rate", *_TESTS)
    print_table(shown, [[entry[column] for column in shown] for entry in figure.entries])
    found = {entry["arm"]: entry for entry in figure.entries}
    longest = "longer, more pairs"
    figure.claim(
        f"recall at {_FACTOR} times the length of training, SSM + LAVA",
        found[MEMORY][longest],
        ">=",
        0.99,
        peer=f"SSM with 4 times the state: {found[QUADRUPLE][longest]:.3f}",
        detail=f"SSM {found['SSM'][longest]:.3f}, attention {found['attention'][longest]:.3f}",
    )
    return figure


def _mean(runs: list[dict[str, Any]], test: str) -> float:
    return float(np.mean([run[test] for run in runs]))


def _kept(folder: Path, name: str, rate: float, seed: int, steps: int, threads: int) -> dict[str, Any]:
    """The run, trained unless it was before."""
    path = folder / f"{name.replace(' ', '_')}-{rate:g}-{seed}-{steps}.json"
    if not path.is_file():
        found = _trained(name, rate, seed, steps, threads)
        print(json.dumps(found), flush=True)
        path.write_text(json.dumps(found))
    return json.loads(path.read_bytes())


def _trained(name: str, rate: float, seed: int, steps: int, threads: int) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise MissingPeerError("torch is not installed: pip install 'vortex-engine[train]'") from error
    from vortex_engine.train.vortex_model import TrainableVortex

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = TrainableVortex(arm(name, _VOCAB))
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.1)
    losses: list[float] = []
    for step in range(steps):
        scale = min(1.0, (step + 1) / max(1, steps // 10)) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * scale
        ids, labels = _tensors(recall_task(rng, _BATCH, _LENGTH, _PAIRS[step % len(_PAIRS)], _VOCAB))
        asked = labels != NO_LABEL
        logits = torch.nn.functional.linear(model.hidden(ids)[asked], model.output)
        loss = torch.nn.functional.cross_entropy(logits, labels[asked])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    tests = np.random.default_rng(1_000_003)
    found: dict[str, Any] = {"arm": name, "rate": rate, "seed": seed, "losses": losses[:: max(1, steps // 50)]}
    found["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad():
        for test, (length, pairs) in _TESTS.items():
            ids, labels = _tensors(recall_task(tests, 32, length, pairs, _VOCAB))
            asked = labels != NO_LABEL
            logits = torch.nn.functional.linear(model.hidden(ids)[asked], model.output)
            found[test] = float((logits.argmax(-1) == labels[asked]).float().mean())
    return found


def _tensors(arrays: tuple[NDArray[np.int64], NDArray[np.int64]]) -> tuple[Any, Any]:
    import torch

    return torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])
