"""A second model drafts, with the same tokenizer or another one; the text stays that of the first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.decode.runs import run, start

import vortex_engine as vx
from vortex_engine.c3.inspect import reseal
from vortex_engine.decode.load import model_path

PROMPT = "def count_words(text):\n    counts = {}\n    for word in text"


@pytest.fixture(scope="module")
def other_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano with a tokenizer of its own: one merge fewer, so that ids and cuts differ here and there."""
    folder = tmp_path_factory.mktemp("second") / "nano.c3"
    shutil.copytree(model_path("nano"), folder)
    path = folder / "tokenizer.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    state["model"]["merges"] = state["model"]["merges"][:-400]
    path.unlink()
    path.write_text(json.dumps(state), encoding="utf-8")
    reseal(folder)
    return folder


@pytest.mark.parametrize("law", [{}, {"temperature": 0.9, "seed": 11}], ids=str)
def test_the_same_model_is_always_right(law: dict[str, float]) -> None:
    """The same noise for both: sampled drafts are as good as greedy ones."""
    with vx.load("nano", draft_model="nano") as model:
        prompt = model.tokenizer.encode(PROMPT)
        generation = start(model, prompt, 40, speculate="model", block_size=5, **law)
        token_ids = [token_id for block in generation.blocks() for token_id in block.token_ids]
        counts = generation.planner.counts["model"]
        assert counts.accepted == counts.drafted > 30
        plain = run(model, prompt, 40, speculate="off", **law)
        assert tuple(token_ids[:40]) == plain.token_ids
        assert run(model, prompt, 40, speculate="model", block_size=5, **law) == plain


@pytest.mark.parametrize("law", [{}, {"temperature": 0.9, "seed": 11}], ids=str)
def test_another_tokenizer_is_bridged(other_tokenizer: Path, law: dict[str, float]) -> None:
    with vx.load("nano", draft_model=other_tokenizer) as model:
        prompt = model.tokenizer.encode(PROMPT)
        plain = run(model, prompt, 40, speculate="off", **law)
        for block_size in (1, 4, 8, None):
            assert run(model, prompt, 40, speculate="model", block_size=block_size, **law) == plain
        if not law:
            generation = start(model, prompt, 40, speculate="model", block_size=4)
            for _ in generation.blocks():
                pass
            counts = generation.planner.counts["model"]
            assert counts.accepted > 0.6 * counts.drafted > 10


def test_a_context_that_ends_before_the_first_models_ends_drafting(tiny_hf_dir: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "short"
    shutil.copytree(tiny_hf_dir, checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 12}))
    vx.pack(checkpoint, tmp_path / "short.c3")
    vx.pack(tiny_hf_dir, tmp_path / "long.c3")
    with vx.load(tmp_path / "long.c3", draft_model=tmp_path / "short.c3") as model:
        prompt = [5, 6, 7, 8, 9]
        plain = run(model, prompt, 30, speculate="off")
        assert run(model, prompt, 30, speculate="model", block_size=4) == plain


def test_its_weights_are_part_of_the_budget(tiny_c3_dir: Path) -> None:
    with vx.load(tiny_c3_dir) as model:
        total = model.stats["total_bytes"]
    with vx.load(tiny_c3_dir, ram_budget=2 * total, draft_model=tiny_c3_dir) as model:
        assert model.stats["budget_bytes"] == total
    with pytest.raises(vx.BudgetError, match="draft_model"):
        vx.load(tiny_c3_dir, ram_budget=total // 2, draft_model=tiny_c3_dir)
