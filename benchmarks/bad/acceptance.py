"""What drafting gives and costs: tokens a sweep, the price of speculating in vain, the time of a rollback.

Tokens a sweep are those of chains of 8 drafts, and the siblings that pay beside them, on trained models, greedy, all
weights in RAM: next to a property of models and prompts, not of the machine. Incompressible text is drawn at
temperature 1 from a random model; speculation takes turns with plain decoding in one process. A rollback is that of a
state that holds 512 positions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import vortex_engine as vx
from benchmarks.bad.setting import SpeculationSetting, is_available
from benchmarks.c3.report import Figure, MissingPeerError
from benchmarks.machine import print_table, spread
from vortex_engine.decode.load import model_path
from vortex_engine.state import KVState, SequenceState

DRAFTERS = ("prefix", "ngram", "early_exit", "ngram+prefix")
KINDS = ("humaneval", "code", "prose")
_BLOCK = 8
_TARGETS = {"stories260K": 4.0, "nano": 5.0}
_PROMPTS_A_KIND, _NEW_TOKENS, _PROMPT_TOKENS = 12, 96, 160
_RANDOM_TOKENS, _TURN_TOKENS, _RANDOM_PROMPTS, _RANDOM_TARGET = 192, 8, 13, 0.98
_POSITIONS, _ROLLBACKS, _ROLLBACK_TARGET_US = 512, 2000, 1.0


def measure(setting: SpeculationSetting) -> Figure:
    """The three measurements, one after the other."""
    figure = Figure()
    figure.facts = {"threads": setting.threads, "block_size": _BLOCK, "new_tokens": _NEW_TOKENS}
    try:
        models = setting.trained()
    except MissingPeerError as error:
        figure.skip(error)
        models = {"nano": model_path("nano")}
    for name, path in models.items():
        _measure_drafters(setting, figure, name, path)
    shapes = ("small",) if setting.quick else ("small", "qwen2-0.5b")
    for shape in shapes:
        _measure_random_text(setting, figure, shape)
    _measure_rollback(figure)
    _print(figure)
    return figure


def _measure_drafters(setting: SpeculationSetting, figure: Figure, name: str, path: Path) -> None:
    n_prompts = 2 if setting.quick else _PROMPTS_A_KIND
    with vx.load(path, threads=setting.threads) as model:
        prompts = {kind: setting.prompt_ids(path, n_prompts, kind, max_tokens=_PROMPT_TOKENS) for kind in KINDS}
        expected = {kind: _continue(model, prompts[kind], speculate="off") for kind in KINDS}
        for drafter in filter(is_available, DRAFTERS):
            total = {"tokens": 0, "sweeps": 0.0, "drafted": 0, "accepted": 0, "siblings_accepted": 0}
            by_kind: dict[str, float] = {}
            for kind in KINDS:
                outputs = _continue(model, prompts[kind], speculate=drafter, block_size=_BLOCK)
                for output, plain in zip(outputs, expected[kind], strict=True):
                    if output.token_ids != plain.token_ids:
                        raise SystemExit(
                            f"{name}, {drafter}: the text differs from plain decoding, nothing is reported"
                        )
                stats = [output.stats for output in outputs]
                tokens = sum(one["n_new_tokens"] for one in stats)
                sweeps = sum(one["n_new_tokens"] / one["tokens_per_sweep"] for one in stats)
                by_kind[kind] = tokens / sweeps
                total["tokens"] += tokens
                total["sweeps"] += sweeps
                total["drafted"] += sum(one["n_drafted"] for one in stats)
                total["accepted"] += sum(one["n_accepted"] for one in stats)
                counts = [count for one in stats for count in one["drafters"].values()]
                total["siblings_accepted"] += sum(count["siblings_accepted"] for count in counts)
            per_sweep = total["tokens"] / total["sweeps"]
            entry: dict[str, Any] = {"what": "tokens a sweep", "model": name, "drafter": drafter}
            figure.entries.append({**entry, "tokens_per_sweep": per_sweep, "by_kind": by_kind, **total})
            if drafter == "prefix":
                what = f"tokens a sweep, `prefix` at block {_BLOCK}, {name}"
                detail = ", ".join(f"{kind} {value:.2f}" for kind, value in by_kind.items())
                detail += f"; siblings gave {total['siblings_accepted'] / total['tokens']:.1%} of the tokens"
                figure.claim(what, per_sweep, ">=", _TARGETS[name], peer="plain: 1", detail=detail)


def _continue(model: vx.Model, prompts: Sequence[Sequence[int]], **options: Any) -> list[vx.GenerationResult]:
    return [model.generate(prompt, max_new_tokens=_NEW_TOKENS, ignore_eos=True, **options) for prompt in prompts]


def _measure_random_text(setting: SpeculationSetting, figure: Figure, shape: str) -> None:
    """Speed with `speculate="auto"` over speed without: two streams of one model take turns of a few tokens, so that
    both meet the same weather."""
    path = setting.random_packed(shape)
    generator = np.random.default_rng(0)
    speeds: dict[str, list[float]] = {"off": [], "auto": []}
    with vx.load(path, threads=setting.threads) as model:
        n_prompts = 1 + setting.rounds(_RANDOM_PROMPTS)
        prompts = generator.integers(0, min(model.vocab_size, 256), (n_prompts, 32)).tolist()
        for seed, prompt in enumerate(prompts):
            seconds = _race(model, prompt, seed)
            if seed:  # the first fills caches and profiles the drafters
                for mode, values in speeds.items():
                    values.append(_RANDOM_TOKENS / seconds[mode])
    plain, speculating = (statistics.median(speeds[mode]) for mode in ("off", "auto"))
    share = statistics.median(auto / off for off, auto in zip(speeds["off"], speeds["auto"], strict=True))
    entry: dict[str, Any] = {"what": "incompressible text", "model": f"random, {shape}", "ratio": share}
    figure.entries.append({**entry, "tokens_per_s": {mode: spread(values) for mode, values in speeds.items()}})
    detail = f"{speculating:.2f} and {plain:.2f} tokens/s"
    what = f"speculation on incompressible text, random {shape}"
    figure.claim(what, share, ">=", _RANDOM_TARGET, peer="plain decoding, turn by turn", detail=detail)


def _race(model: vx.Model, prompt: Sequence[int], seed: int) -> dict[str, float]:
    """Seconds that each mode's stream took for its tokens, prefill left out."""
    streams = {
        mode: model.stream(
            prompt, max_new_tokens=_RANDOM_TOKENS + 1, temperature=1.0, seed=seed, ignore_eos=True, speculate=mode
        )
        for mode in ("off", "auto")
    }
    seconds, left = dict.fromkeys(streams, 0.0), dict.fromkeys(streams, _RANDOM_TOKENS)
    for stream in streams.values():
        next(stream)
    turn = 0
    while any(n > 0 for n in left.values()):
        for mode in ("off", "auto") if turn % 2 else ("auto", "off"):
            goal = left[mode] - _TURN_TOKENS
            start = time.perf_counter()
            while left[mode] > max(goal, 0):
                left[mode] -= len(next(streams[mode]).token_ids)
            seconds[mode] += time.perf_counter() - start
        turn += 1
    return seconds


def _measure_rollback(figure: Figure) -> None:
    """Microseconds of a rollback, with what it takes to call it from Python."""
    state = SequenceState(KVState(n_layers=24, n_kv_heads=2, head_dim=64, capacity=_POSITIONS))
    state.kv.length = _POSITIONS - _BLOCK
    taken: list[float] = []
    for _ in range(_ROLLBACKS):
        mark = state.snapshot()
        state.kv.length += _BLOCK
        start = time.perf_counter_ns()
        state.rollback(mark)
        taken.append((time.perf_counter_ns() - start) / 1e3)
    microseconds = spread(taken)
    figure.entries.append({"what": "rollback", "positions": _POSITIONS, "microseconds": microseconds})
    figure.claim("µs of a rollback, 24 layers, 512 positions", microseconds["median"], "<=", _ROLLBACK_TARGET_US)


def _print(figure: Figure) -> None:
    rows = [
        [entry["model"], entry["drafter"], entry["tokens_per_sweep"], *(entry["by_kind"][kind] for kind in KINDS)]
        for entry in figure.entries
        if entry["what"] == "tokens a sweep"
    ]
    print_table(("model", "drafter", "tokens a sweep", *KINDS), rows)
