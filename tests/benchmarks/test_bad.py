"""The benchmarks of block speculation: prompts, the comparison with plain decoding and what makes it fail."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from benchmarks.bad.compare import LAWS, SETTINGS, cases, compare_prompt, different_bits, loaded_models
from benchmarks.bad.prompts import read_prompts
from benchmarks.bad.proof import BLOCK_SIZES, Task, drafter_plans, figure_of, in_turn, run_tasks
from benchmarks.bad.random_models import ARCHITECTURES, write_random_model
from benchmarks.bad.run_llama import LOOKUPS, continuations
from benchmarks.c3.report import MissingPeerError

import vortex_engine as vx
from vortex_engine.decode.options import DRAFTER_NAMES
from vortex_engine.state import KVState

PROMPT = [70, 71, 72, 73, 70, 71, 72, 73, 70, 71]


def make(folder: Path, architecture: str) -> Path:
    write_random_model(folder / "source", architecture)
    vx.pack(folder / "source", folder / "model.c3")
    return folder / "model.c3"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("random"), "llama")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_random_models_of_every_architecture_speculate_exactly(architecture: str, tmp_path: Path) -> None:
    model = make(tmp_path, architecture)
    with loaded_models(model, model) as models:
        plans = drafter_plans((4,), has_heads=True)
        counts = compare_prompt(models, PROMPT, ARCHITECTURES.index(architecture), 8, plans, every=False)
    assert counts["all: drafted"] > 0 and counts["all: different_tokens"] == counts["all: different_bits"] == 0
    assert {f"{drafter}: runs" for drafter in DRAFTER_NAMES} < set(counts)


def test_a_rejected_position_that_is_kept_is_counted(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = KVState.commit

    def keeps_one_too_many(state: KVState, mark: int, n_positions: int) -> None:
        commit(state, mark, min(n_positions + 1, state.length - mark) if n_positions else 0)

    plans = (("early_exit", 3),)
    with loaded_models(packed, packed) as models:
        honest = compare_prompt(models, PROMPT, 0, 8, plans, every=False)
        monkeypatch.setattr(KVState, "commit", keeps_one_too_many)
        counts = compare_prompt(models, PROMPT, 0, 8, plans, every=False)
    assert honest["all: different_bits"] == counts["off: different_bits"] == 0
    assert counts["early_exit: different_bits"] > 0


def test_every_case_of_a_drafter_meets_every_setting_and_law() -> None:
    plans = drafter_plans(BLOCK_SIZES, has_heads=True)
    met = {
        (c.drafter, c.block_size, c.setting, c.law)
        for i in range(2000)
        for c in cases(i, in_turn(plans, i), every=False)
    }
    assert len(met) == len(plans) * len(SETTINGS) * len(LAWS)
    nano = [c for i in range(5, 2000, 21) for c in cases(i, in_turn(plans, i), every=False)]
    assert len({(c.drafter, c.block_size, c.setting) for c in nano}) == len(plans) * len(SETTINGS)
    assert len({(c.drafter, c.block_size, c.law) for c in nano}) == len(plans) * len(LAWS)
    every = list(cases(3, plans, every=True))
    assert len(every) == len(plans) * len(SETTINGS) * 2 and {case.law for case in every} == {0, 1, 2, 3}


def test_bits_that_differ_are_counted() -> None:
    rows = np.array([[1.0, -2.0], [0.0, 3.0]], np.float32)
    assert different_bits(rows, rows.copy()) == 0
    assert different_bits(rows, np.array([[1.0, 2.0], [-0.0, 3.0]], np.float32)) == 2
    assert different_bits(rows, rows[:1]) == 64


def test_done_tasks_are_not_done_again(packed: Path, tmp_path: Path) -> None:
    task = Task("llama", str(packed), str(packed), (0,), 1, 6, str(tmp_path), (("early_exit", 2),), False)
    journal = tmp_path / "journal.jsonl"
    journal.write_text(json.dumps({"key": task.key, "counts": {"all: runs": 5, "all: different_bits": 2}}) + "\n")
    counts = run_tasks([task], journal, 1)
    assert counts == {"llama": Counter({"all: runs": 5, "all: different_bits": 2})}
    figure = figure_of(counts)
    assert [claim.met for claim in figure.claims] == [True, False]
    assert figure.entries == [{"model": "llama", "groups": {"all": {"runs": 5, "different_bits": 2}}}]


def test_prompts_are_distinct_and_of_every_kind(shared_dir: Path) -> None:
    prompts = read_prompts(2000, data=shared_dir / "data")
    kinds = Counter(prompt.kind for prompt in prompts)
    assert len({prompt.text for prompt in prompts}) == 2000 and min(kinds.values()) >= 80
    assert kinds == {"humaneval": 82, "mbpp": 487, "code": 716, "prose": 715}


def test_a_server_that_ends_is_a_missing_peer(tmp_path: Path) -> None:
    with pytest.raises(MissingPeerError, match="llama-server: exit code 1"):
        continuations(Path("/bin/false"), tmp_path, [[1]], max_new_tokens=1, threads=1, lookup=next(iter(LOOKUPS)))
