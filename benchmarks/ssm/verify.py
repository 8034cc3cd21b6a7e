"""What a sweep over eight drafted tokens costs beside one over a single token, and what forgetting them costs."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np

from benchmarks.c3.report import Figure
from benchmarks.c3.setting import Setting
from benchmarks.machine import print_table, spread
from benchmarks.ssm.model import packed, prompt
from vortex_engine import ops
from vortex_engine.c3.directory import add_matrices, open_directory
from vortex_engine.models import build_model
from vortex_engine.models.protocol import LanguageModel
from vortex_engine.state import recurrent_layers

_DRAFTS = 8
_BUDGETS = (1.0, 0.4)
_TARGET, _ROLLBACK_TARGET_US = 1.6, 1.0
_TURNS, _ROLLBACKS = 24, 20_000


def measure(setting: Setting) -> Figure:
    """Sweeps of one row and of nine, all logits asked for, with all weights in RAM and with 40 % of them."""
    figure = Figure()
    directory = open_directory(packed(setting, "exact", "float"))
    figure.facts = {"threads": setting.threads, "drafts": _DRAFTS, "weights_bytes": directory.compressed_bytes}
    ctx = ops.make_context(setting.threads)
    for budget in _BUDGETS:
        pager = ops.make_pager(ctx, int(budget * directory.compressed_bytes))
        try:
            model = build_model(directory, pager, add_matrices(directory, pager), ctx, "float")
            pager.start(list(model.sweep), list(model.drafted))
            _measure_sweeps(figure, setting, model, budget)
            if budget == 1.0:
                _measure_rollback(figure, setting, model)
        finally:
            pager.close()
    print(json.dumps(figure.entries, indent=1))
    return figure


def _measure_sweeps(figure: Figure, setting: Setting, model: LanguageModel, budget: float) -> None:
    state = model.new_state(10_000)
    model.forward(np.array(prompt(setting), np.int64), state, "none")
    rng = np.random.default_rng(1)
    taken: dict[int, list[float]] = {1: [], 1 + _DRAFTS: []}
    for _ in range(setting.rounds(_TURNS)):
        for n_rows, seconds in taken.items():
            ids = rng.integers(0, model.config.vocab_size, n_rows)
            mark = state.snapshot()
            start = time.perf_counter()
            model.forward(ids, state, "all")
            seconds.append(time.perf_counter() - start)
            state.rollback(mark)
    times = {n_rows: spread(seconds) for n_rows, seconds in taken.items()}
    one, block = times[1]["median"], times[1 + _DRAFTS]["median"]
    figure.entries.append({"what": "sweeps", "budget": budget, "one_s": times[1], "block_s": times[1 + _DRAFTS]})
    figure.claim(
        f"sweep over {_DRAFTS} drafted tokens over one of a token, {100 * budget:.0f} % of the weights in RAM",
        block / one,
        "<=",
        _TARGET,
        detail=f"{block * 1e3:.1f} and {one * 1e3:.1f} ms",
    )
    print_table(("budget", "one row, ms", "nine rows, ms"), [[budget, one * 1e3, block * 1e3]])


def _measure_rollback(figure: Figure, setting: Setting, model: LanguageModel) -> None:
    """Microseconds, with what it takes to call it from Python, and what a drafted token adds to a sequence."""
    state = model.new_state(10_000)
    model.forward(np.array(prompt(setting), np.int64), state, "none")
    taken: list[float] = []
    for _ in range(setting.rounds(_ROLLBACKS)):
        mark = state.snapshot()
        state.kv.length += 1 + _DRAFTS
        start = time.perf_counter_ns()
        state.rollback(mark)
        taken.append((time.perf_counter_ns() - start) / 1e3)
    microseconds = spread(taken)
    layers: Any = recurrent_layers(state).layers
    token_bytes = sum(layer.row_bytes for layer in layers)
    snapshot_bytes = sum(layer.source.nbytes for layer in layers)
    figure.entries.append(
        {
            "what": "rollback",
            "microseconds": microseconds,
            "token_bytes": token_bytes,
            "snapshot_bytes": snapshot_bytes,
        }
    )
    figure.claim("µs of a rollback", microseconds["median"], "<=", _ROLLBACK_TARGET_US)
    figure.claim("bytes of a drafted token over those of a state", token_bytes / snapshot_bytes, "<=", 1 / 4)
