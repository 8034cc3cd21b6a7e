"""Associative recall at the length of training and at sixteen and more times that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.c3.report import Figure, MissingPeerError
from benchmarks.c3.setting import Setting
from benchmarks.machine import print_table
from benchmarks.vortex.arms import ARMS, MEMORY, QUADRUPLE, arm
from benchmarks.vortex.engine import in_engine, word_tokenizer
from benchmarks.vortex.recall_task import NO_LABEL, recall_task
from benchmarks.vortex.training import Batch, accuracy, fit

_VOCAB, _LENGTH, _FACTOR = 512, 64, 16
_PAIRS = (4, 8, 16)  # in training
_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
_SEEDS = (0, 1, 2)
_STEPS, _BATCH = 1200, 64
# Length, pairs and sequences of the tests; the longest is for the engine alone.
_TRAINED, _LONGER, _FULLER, _LONGEST = "trained", "16x", "16x, 8x the pairs", "64x, 8x the pairs"
_TESTS = {
    _TRAINED: (_LENGTH, 16, 64),
    _LONGER: (_FACTOR * _LENGTH, 16, 64),
    _FULLER: (_FACTOR * _LENGTH, 128, 32),
    _LONGEST: (4 * _FACTOR * _LENGTH, 128, 16),
}
_IN_ENGINE = " in the engine"


def measure(setting: Setting) -> Figure:
    """Each arm with every rate and one seed, then the rate that did best as trained with the other seeds."""
    figure = Figure()
    steps, rates, seeds = (2, _RATES[:1], _SEEDS[:1]) if setting.quick else (_STEPS, _RATES, _SEEDS)
    figure.facts = {"steps": steps, "batch": _BATCH, "rates": rates, "seeds": seeds, "vocab": _VOCAB, "tests": _TESTS}
    folder = setting.work / "mqar"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ARMS:
        swept = [_kept(folder, name, rate, seeds[0], steps, setting.threads) for rate in rates]
        best = max(swept, key=lambda run: run[_TRAINED])
        runs = [best] + [_kept(folder, name, best["rate"], seed, steps, setting.threads) for seed in seeds[1:]]
        tests = [test for test in best if test.removesuffix(_IN_ENGINE) in _TESTS]
        figure.entries.append(
            {"arm": name, "parameters": best["parameters"], "rate": best["rate"]}
            | {test: float(np.mean([run[test] for run in runs])) for test in tests}
            | {"lowest": min(run[_FULLER] for run in runs), "swept": swept, "runs": runs}
        )
    shown = ("arm", "parameters", "rate", _TRAINED, _LONGER, _FULLER)
    print_table(shown, [[entry[column] for column in shown] for entry in figure.entries])
    found = {entry["arm"]: entry for entry in figure.entries}
    memory = found[MEMORY]
    others = ", ".join(f"{name} {found[name][_FULLER]:.3f}" for name in ARMS if name not in (MEMORY, QUADRUPLE))
    figure.claim(
        f"recall of {_TESTS[_FULLER][1]} pairs at {_FACTOR} times the length of training, SSM + LAVA in the engine",
        memory[_FULLER + _IN_ENGINE],
        ">=",
        0.99,
        peer=f"SSM with 4 times the state: {found[QUADRUPLE][_FULLER]:.3f}",
        detail=f"{others}; SSM + LAVA at 64 times the length {memory[_LONGEST + _IN_ENGINE]:.3f}",
    )
    return figure


def _kept(folder: Path, name: str, rate: float, seed: int, steps: int, threads: int) -> dict[str, Any]:
    """The run, trained unless it was before."""
    path = folder / f"{name.replace(' ', '_')}-{rate:g}-{seed}-{steps}.json"
    if not path.is_file():
        found = _trained(folder, name, rate, seed, steps, threads)
        print(json.dumps(found), flush=True)
        path.write_text(json.dumps(found))
    return json.loads(path.read_bytes())


def _trained(folder: Path, name: str, rate: float, seed: int, steps: int, threads: int) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise MissingPeerError("torch is not installed: pip install 'vortex-engine[train]'") from error
    from vortex_engine.train.vortex_model import TrainableVortex

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = TrainableVortex(arm(name, _VOCAB))
    losses = fit(model, _batches(seed), steps, rate)
    found: dict[str, Any] = {"arm": name, "rate": rate, "seed": seed, "losses": losses[:: max(1, steps // 50)]}
    found["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    tests = {name: _test_batch(*sizes) for name, sizes in _TESTS.items()}
    found |= {test: accuracy(model, tests[test]) for test in (_TRAINED, _LONGER, _FULLER)}
    if name == MEMORY:
        place = folder / f"engine-{rate:g}-{seed}-{steps}"
        with in_engine(model, place, word_tokenizer(_VOCAB), threads) as packed:
            for test, (ids, labels) in tests.items():
                asked = labels != NO_LABEL
                guesses = np.stack([packed.logits(row).argmax(-1) for row in ids])
                found[test + _IN_ENGINE] = float((guesses[asked] == labels[asked]).mean())
    return found


def _batches(seed: int) -> Iterator[Batch]:
    rng = np.random.default_rng(seed)
    while True:
        for pairs in _PAIRS:
            yield recall_task(rng, _BATCH, _LENGTH, pairs, _VOCAB)


def _test_batch(length: int, pairs: int, rows: int) -> Batch:
    return recall_task(np.random.default_rng(1_000_003), rows, length, pairs, _VOCAB)
