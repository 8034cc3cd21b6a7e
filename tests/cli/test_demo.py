"""The demo's table, its verdict, and the bound that stands beside the hit rate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vortex_engine.belady import belady_bytes_per_sweep, best_byte_hit_rate
from vortex_engine.cli import main
from vortex_engine.demo import FRACTIONS, run_demo


def test_demo_is_the_same_at_every_budget(tiny_c3_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--model", str(tiny_c3_dir), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["same"] and report["same_text"] and report["same_logits"]
    assert [entry["fraction"] for entry in report["budgets"]] == list(FRACTIONS)
    for entry in report["budgets"]:
        assert entry["budget_bytes"] == int(report["total_bytes"] * entry["fraction"])
        assert 0 < entry["peak_bytes"] <= entry["budget_bytes"]
        assert 0 <= entry["hit_rate"] <= entry["belady_hit_rate"] <= 1
        assert entry["bytes_read_per_token"] > 0 and entry["tokens_per_s"] > 0
        assert entry["text_sha256"] == report["budgets"][0]["text_sha256"]
        assert entry["logits_sha256"] == report["budgets"][0]["logits_sha256"]
    rates = [entry["hit_rate"] for entry in report["budgets"]]
    assert rates == sorted(rates, reverse=True)


def test_demo_streams_once_and_prints_the_verdict(tiny_c3_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--model", str(tiny_c3_dir)]) == 0
    page = capsys.readouterr().out
    assert page.count("def count_words(text):") == 1
    assert page.endswith("same text, same logits: yes\n")
    for column in ("budget", "peak held", "hit rate", "best possible", "read per token", "tokens/s"):
        assert column in page


def test_different_logits_fail_the_demo(
    tiny_c3_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vortex_engine.decode.model import Model

    right = Model.logits

    def wrong_under_pressure(self: Model, prompt: Sequence[int]) -> object:
        logits = right(self, prompt)
        if self.stats["budget_bytes"] < self.stats["total_bytes"]:
            logits[-1, -1] += 1.0
        return logits

    monkeypatch.setattr(Model, "logits", wrong_under_pressure)
    assert main(["demo", "--model", str(tiny_c3_dir)]) == 1
    assert capsys.readouterr().out.endswith("same text, same logits: NO\n")


def test_a_budget_beyond_the_free_memory_is_left_out(tiny_c3_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_demo(str(tiny_c3_dir), max_new_tokens=4)
    monkeypatch.setattr("vortex_engine.demo.available_ram_bytes", lambda: whole.total_bytes // 2)
    report = run_demo(str(tiny_c3_dir), max_new_tokens=4)
    assert [run.fraction for run in report.runs] == [0.5, 0.25] and len(report.skipped) == 1
    assert report.same and report.text == whole.text


def belady_hits(trace: Sequence[int], n_slots: int) -> int:
    """Hits of the optimal policy for tiles of one size: replace what is needed last, or do not keep the tile."""
    held: set[int] = set()
    hits = 0
    for position, tile in enumerate(trace):
        if tile in held:
            hits += 1
            continue
        rest = list(trace[position + 1 :])

        def next_use(candidate: int, rest: list[int] = rest) -> int:
            return rest.index(candidate) if candidate in rest else len(rest) + candidate

        held.add(tile)
        if len(held) > n_slots:
            held.remove(max(held, key=next_use))
    return hits


@given(n_tiles=st.integers(1, 12), n_sweeps=st.integers(1, 6), n_slots=st.integers(0, 14))
def test_the_bound_is_above_beladys_policy(n_tiles: int, n_sweeps: int, n_slots: int) -> None:
    trace = list(range(n_tiles)) * n_sweeps
    bound = best_byte_hit_rate(100 * n_tiles, n_sweeps=n_sweeps, budget_bytes=100 * n_slots)
    assert belady_hits(trace, n_slots) / len(trace) <= bound + 1e-12


@pytest.mark.parametrize(("n_tiles", "n_slots"), [(40, 10), (40, 20), (40, 40), (7, 3)])
def test_the_bound_is_close_to_beladys_policy(n_tiles: int, n_slots: int) -> None:
    n_sweeps = 30
    trace = list(range(n_tiles)) * n_sweeps
    bound = best_byte_hit_rate(n_tiles, n_sweeps=n_sweeps, budget_bytes=n_slots)
    assert bound - belady_hits(trace, n_slots) / len(trace) <= 1 / n_tiles


def test_the_bound_of_nothing_and_of_everything() -> None:
    assert best_byte_hit_rate(0, n_sweeps=0, budget_bytes=1) == 0
    assert best_byte_hit_rate(10, n_sweeps=4, budget_bytes=10) == 0.75
    assert best_byte_hit_rate(10, n_sweeps=4, budget_bytes=0) == 0


def fewest_reads(sizes: list[int], budget: int, n_sweeps: int) -> int:
    """Misses of the best choice at every step, by trying them all (tiles of equal size)."""
    trace = list(range(len(sizes))) * n_sweeps
    slots = budget // sizes[0]
    reachable = {frozenset[int](): 0}
    for tile in trace:
        step: dict[frozenset[int], int] = {}
        for held, reads in reachable.items():
            if tile in held:
                options = [(held, reads)]
            elif len(held) < slots:
                options = [(held | {tile}, reads + 1)]
            else:
                options = [((held - {out}) | {tile}, reads + 1) for out in held]
            for state, cost in options:
                step[state] = min(cost, step.get(state, cost))
        reachable = step
    return min(reachable.values())


@pytest.mark.parametrize(("n_tiles", "slots"), [(6, 2), (6, 4), (7, 3), (5, 5)])
def test_belady_reads_what_no_policy_can_beat(n_tiles: int, slots: int) -> None:
    sizes = [4096] * n_tiles
    assert belady_bytes_per_sweep(sizes, slots * 4096, n_sweeps=1) == n_tiles * 4096
    steady = belady_bytes_per_sweep(sizes, slots * 4096, n_sweeps=8) * 4
    best = (fewest_reads(sizes, slots * 4096, 8) - fewest_reads(sizes, slots * 4096, 4)) * 4096
    assert steady == best


def test_belady_reads_at_least_what_is_missing() -> None:
    sizes = [int(size) * 4096 for size in np.random.default_rng(1).integers(1, 200, 300)]
    for share in (0.25, 0.5, 0.9):
        budget = int(sum(sizes) * share)
        read = belady_bytes_per_sweep(sizes, budget)
        assert sum(sizes) - budget <= read <= sum(sizes) - budget + 3 * max(sizes)
