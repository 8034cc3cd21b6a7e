"""A pass key found again after up to a million tokens, in memory that does not grow."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.c3.report import Figure, MissingPeerError
from benchmarks.c3.setting import Setting
from benchmarks.machine import print_table
from benchmarks.vortex.arms import MEMORY, QUADRUPLE, arm
from benchmarks.vortex.engine import in_engine
from benchmarks.vortex.passkey_task import DIGITS, PasskeyTask
from benchmarks.vortex.training import Batch, fit
from vortex_engine.models.vortex_config import VortexConfig

_LENGTH, _STEPS, _BATCH_TOKENS = 256, 600, 4096
_SHORT, _SHORT_STEPS = 64, 0.5  # length of the first documents, and of the steps their part: copying is learned there
_RATES = (1e-3, 3e-3, 1e-2)
_SEEDS = (0, 1, 2)
_LENGTHS = (256, 10_000, 100_000, 1_000_000)
_DEPTHS = (0.05, 0.25, 0.5, 0.75, 0.95)
# A digit that nothing foretells has 2.3 nats, the text that repeats itself next to none.
_SURPRISE = 1.0
_CAPACITY = 4096
_SHOWN = ("recall", "tokens_per_s", "state_bytes")


def measure(setting: Setting) -> Figure:
    """Each arm with every rate and one seed, then the best rate with all seeds; keys are asked of the packed model.

    Only the arm with a memory is asked at all lengths: the other one finds nothing long before.
    """
    figure = Figure()
    steps, rates, seeds, lengths = _STEPS, _RATES, _SEEDS, _LENGTHS
    if setting.quick:
        steps, rates, seeds, lengths = 2, rates[:1], seeds[:1], lengths[:2]
    figure.facts = {"steps": steps, "batch_tokens": _BATCH_TOKENS, "rates": rates, "seeds": seeds, "depths": _DEPTHS}
    figure.facts |= {"trained length": _LENGTH, "capacity": _CAPACITY, "surprise": _SURPRISE}
    folder = setting.work / "passkey"
    folder.mkdir(parents=True, exist_ok=True)
    for name, asked in ((MEMORY, lengths), (QUADRUPLE, lengths[:2])):
        swept = [kept(folder, name, rate, seeds[0], steps, lengths[:2], setting.threads) for rate in rates]
        best = max(swept, key=lambda run: [found["recall"] for found in run["tests"]])["rate"]
        runs = [kept(folder, name, best, seed, steps, asked, setting.threads) for seed in seeds]
        entry = {"arm": name, "parameters": runs[0]["parameters"], "rate": best}
        figure.entries.append(entry | {"swept": swept, "runs": runs})
    rows = [
        [entry["arm"], test["tokens"], *(_mean(entry["runs"], i, what) for what in _SHOWN)]
        for entry in figure.entries
        for i, test in enumerate(entry["runs"][0]["tests"])
    ]
    print_table(("arm", "tokens", *_SHOWN), rows)
    memory, state = (entry["runs"] for entry in figure.entries)
    grown = _mean(memory, -1, "rss_bytes") - _mean(memory, 1, "rss_bytes")
    figure.claim(
        f"pass keys found after {lengths[-1]:,} tokens (trained on {_LENGTH})",
        _mean(memory, -1, "recall"),
        ">=",
        1.0,
        peer=f"SSM with 4 times the state, after {lengths[1]:,}: {_mean(state, -1, 'recall'):.2f}",
        detail=f"{_mean(memory, -1, 'state_bytes') / 2**20:.1f} MiB of state, "
        f"{grown / 2**20:.0f} MiB more resident than at {lengths[1]:,} tokens",
    )
    return figure


def _mean(runs: Sequence[dict[str, Any]], length: int, what: str) -> float:
    return float(np.mean([run["tests"][length][what] for run in runs]))


def kept(
    folder: Path, name: str, rate: float, seed: int, steps: int, lengths: Sequence[int], threads: int
) -> dict[str, Any]:
    """The run, trained and tested unless it was before."""
    path = folder / f"{name.replace(' ', '_')}-{rate:g}-{seed}-{steps}-{lengths[-1]}.json"
    if not path.is_file():
        found = trained(folder, name, rate, seed, steps, lengths, threads)
        print(json.dumps(found), flush=True)
        path.write_text(json.dumps(found))
    return json.loads(path.read_bytes())


def trained(
    folder: Path, name: str, rate: float, seed: int, steps: int, lengths: Sequence[int], threads: int
) -> dict[str, Any]:
    """Train an arm and ask the packed model for keys at every length and depth."""
    try:
        import torch
    except ImportError as error:
        raise MissingPeerError("torch is not installed: pip install 'vortex-engine[train]'") from error
    from vortex_engine.train.vortex_model import TrainableVortex

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    task = PasskeyTask()
    model = TrainableVortex(arm(name, task.vocab))
    losses = fit(model, _batches(task, seed, steps), steps, rate)
    model.config = _sparing(model.config)
    found: dict[str, Any] = {"arm": name, "rate": rate, "seed": seed, "losses": losses[:: max(1, steps // 50)]}
    found["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    rng = np.random.default_rng(1_000_003)
    tests: list[dict[str, Any]] = []
    place = folder / f"engine-{name}-{rate:g}-{seed}".replace(" ", "_")
    with in_engine(model, place, task.tokenizer, threads) as packed:
        for length in lengths:
            hits, began, state_bytes = 0, time.monotonic(), 0
            for depth in _DEPTHS:
                ids, key = task.document(rng, length, depth)
                out = packed.generate(ids.tolist(), max_new_tokens=DIGITS, speculate="off")
                hits += list(out.token_ids) == key.tolist()
                state_bytes = max(state_bytes, out.stats["kv_bytes"])
            tests.append(
                {
                    "tokens": length,
                    "recall": hits / len(_DEPTHS),
                    "tokens_per_s": length * len(_DEPTHS) / (time.monotonic() - began),
                    "state_bytes": state_bytes,
                    "rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                }
            )
            print(name, rate, seed, tests[-1], flush=True)
    return found | {"tests": tests}


def _sparing(config: VortexConfig) -> VortexConfig:
    """The memory writes what surprised it, which needs no training of its own."""
    if config.lava is None:
        return config
    lava = replace(
        config.lava, write_every=0, write_on_surprise=_SURPRISE, half_life=1e17, capacity=_CAPACITY, tail=False
    )
    return replace(config, lava=lava)


def _batches(task: PasskeyTask, seed: int, steps: int) -> Iterator[Batch]:
    rng = np.random.default_rng(seed)
    for step in range(steps):
        length = _SHORT if step < _SHORT_STEPS * steps else _LENGTH
        yield task.batch(rng, _BATCH_TOKENS // length, length)
