"""The demo's table, its verdict, and the bound that stands beside the hit rate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vortex_engine.belady import best_hit_rate
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


@given(
    n_tiles=st.integers(1, 12),
    n_sweeps=st.integers(1, 6),
    n_slots=st.integers(0, 14),
    lookups=st.lists(st.integers(0, 11), max_size=6),
)
def test_the_bound_is_above_beladys_policy(n_tiles: int, n_sweeps: int, n_slots: int, lookups: list[int]) -> None:
    sweep = list(range(n_tiles))
    trace = [
        tile for number in range(n_sweeps) for tile in [*(t % n_tiles for t in lookups[number : number + 1]), *sweep]
    ]
    bound = best_hit_rate([100] * n_tiles, n_accesses=len(trace), n_sweeps=n_sweeps, budget_bytes=100 * n_slots)
    assert belady_hits(trace, n_slots) / len(trace) <= bound + 1e-12


@pytest.mark.parametrize(("n_tiles", "n_slots"), [(40, 10), (40, 20), (40, 40), (7, 3)])
def test_the_bound_is_close_to_beladys_policy(n_tiles: int, n_slots: int) -> None:
    n_sweeps = 30
    trace = list(range(n_tiles)) * n_sweeps
    bound = best_hit_rate([1] * n_tiles, n_accesses=len(trace), n_sweeps=n_sweeps, budget_bytes=n_slots)
    assert bound - belady_hits(trace, n_slots) / len(trace) <= 1 / n_tiles


def test_the_bound_of_nothing_and_of_everything() -> None:
    assert best_hit_rate([], n_accesses=0, n_sweeps=0, budget_bytes=1) == 0
    assert best_hit_rate([5, 5], n_accesses=8, n_sweeps=4, budget_bytes=10, n_cold_sweeps=0) == 1
    assert best_hit_rate([5, 5], n_accesses=8, n_sweeps=4, budget_bytes=10) == 0.75
    assert best_hit_rate([5, 5], n_accesses=8, n_sweeps=4, budget_bytes=4) == 0
