"""Block speculation is free of side effects: ids and logits have the bits of plain decoding, whoever drafts, however
much, at every budget and number of threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.decode.runs import finish, run, start

import vortex_engine as vx
from vortex_engine.decode.cost import CostModel
from vortex_engine.decode.options import GenerationOptions
from vortex_engine.decode.speculation import make_planner
from vortex_engine.errors import CorruptTileError
from vortex_engine.models.effort import Effort
from vortex_engine.state import KVState

N_TOKENS = 24
DRAFTERS = ("prefix", "ngram", "early_exit", "ngram+prefix")
PROMPTS = (
    [7, 300, 12, 12, 12, 45],
    [(i * 37 + 5) % 322 for i in range(40)],
    [65, 66, 67, 68] * 6,  # what n-grams find
)
LAWS = (
    {},
    {"temperature": 0.8, "top_p": 0.9, "seed": 3},
    {"temperature": 1.3, "top_k": 20, "min_p": 0.01, "seed": 4, "repetition_penalty": 1.2, "penalty_window": 16},
    {"presence_penalty": 0.4, "frequency_penalty": 0.3, "no_repeat_ngram": 3},
)


@pytest.fixture(scope="module", params=[(0.3, 1), (0.3, 2), (1.0, 1), (1.0, 2)], ids=str)
def tiny(request: pytest.FixtureRequest, tiny_c3_dir: Path) -> Iterator[vx.Model]:
    """The tiny random model at a budget and with a number of threads: speculation must be exact though hardly anything
    is accepted."""
    fraction, threads = request.param
    with vx.load(tiny_c3_dir, threads=threads) as whole:
        total = whole.stats["total_bytes"]
    budget = int(total * fraction) + total  # the model that drafts has all of its weights in RAM
    with vx.load(tiny_c3_dir, ram_budget=budget, threads=threads, draft_model=tiny_c3_dir) as model:
        yield model


@pytest.mark.parametrize("drafter", [*DRAFTERS, "model", "auto"])
def test_ids_and_logits_are_those_of_plain_decoding(tiny: vx.Model, drafter: str) -> None:
    for number, prompt in enumerate(PROMPTS):
        law = LAWS[number % len(LAWS)]
        plain = run(tiny, prompt, N_TOKENS, speculate="off", **law)
        for block_size in ((1, 3, 8, 16, None), (2, 9), (5, None))[number]:
            drafted = run(tiny, prompt, N_TOKENS, speculate=drafter, block_size=block_size, **law)
            assert drafted == plain, (drafter, block_size, law)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_nano_accepts_drafts_and_changes_nothing(law: dict[str, float]) -> None:
    with vx.load("nano") as model:
        prompt = model.tokenizer.encode("def count_words(text):\n    counts = {}\n    for word in text")
        plain = run(model, prompt, 48, speculate="off", **law)
        for drafter in DRAFTERS:
            generation = start(model, prompt, 48, speculate=drafter, block_size=6, **law)
            token_ids = [token_id for block in generation.blocks() for token_id in block.token_ids]
            assert tuple(token_ids[:48]) == plain.token_ids
            if drafter == "prefix":
                assert generation.planner.counts["prefix"].accepted >= 24
            assert run(model, prompt, 48, speculate=drafter, block_size=6, **law) == plain


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("drafter", ["prefix", "early_exit"])
def test_siblings_change_nothing_and_are_accepted(law: dict[str, float], drafter: str) -> None:
    with vx.load("nano") as model:
        prompt = model.tokenizer.encode("def count_words(text):\n    counts = {}\n    for word in text")
        plain = run(model, prompt, 48, speculate="off", **law)
        n_right = 0
        for block_size in (1, 4, 9):
            generation = start(model, prompt, 48, speculate=drafter, block_size=block_size, **law)
            generation.planner = make_planner(
                generation._drafters, CostModel(), GenerationOptions(block_size=block_size), generation.state, "always"
            )
            assert finish(generation, 48) == plain
            counts = generation.planner.counts[drafter]
            assert counts.siblings > 0
            n_right += counts.siblings_accepted
        assert n_right > 0


def test_a_position_that_is_not_rolled_back_shows(monkeypatch: pytest.MonkeyPatch, tiny_c3_dir: Path) -> None:
    """The comparison has teeth: keep one rejected position, or change one value of a verified one, and it fails."""
    with vx.load(tiny_c3_dir) as model:
        plain = run(model, PROMPTS[0], N_TOKENS, speculate="off")
        commit = KVState.commit

        def keeps_one_too_many(state: KVState, mark: int, n_positions: int) -> None:
            commit(state, mark, min(n_positions + 1, state.length - mark) if n_positions else 0)

        with monkeypatch.context() as patch:
            patch.setattr(KVState, "commit", keeps_one_too_many)
            assert run(model, PROMPTS[0], N_TOKENS, speculate="early_exit", block_size=4) != plain

        def changes_a_value(state: KVState, mark: int, n_positions: int) -> None:
            commit(state, mark, n_positions)
            if state.length > mark:
                state.layers[0][1][0, state.length - 1, 0] += 1e-3

        with monkeypatch.context() as patch:
            patch.setattr(KVState, "commit", changes_a_value)
            assert run(model, PROMPTS[0], N_TOKENS, speculate="early_exit", block_size=4) != plain
        assert run(model, PROMPTS[0], N_TOKENS, speculate="early_exit", block_size=4) == plain


def test_stop_strings_eos_and_limits_cut_a_block() -> None:
    with vx.load("nano") as model:
        prompt = "def count_words(text):\n"
        whole = model.generate(prompt, max_new_tokens=60, speculate="off")
        for n_tokens in (1, 2, 7):
            out = model.generate(prompt, max_new_tokens=n_tokens, speculate="prefix", block_size=8)
            assert out.token_ids == whole.token_ids[:n_tokens]
            assert out.stats["n_new_tokens"] == n_tokens
        stop = whole.text[30:34]
        plain = model.generate(prompt, max_new_tokens=60, stop=stop, speculate="off")
        out = model.generate(prompt, max_new_tokens=60, stop=stop, speculate="prefix", block_size=8)
        assert (out.text, out.token_ids, out.finish_reason) == (plain.text, plain.token_ids, plain.finish_reason)
        assert out.stats["n_new_tokens"] == len(out.token_ids)


def test_accepted_tokens_stream_at_once() -> None:
    with vx.load("nano") as model:
        pieces = list(model.stream("def count_words(text):\n", max_new_tokens=40, speculate="prefix", block_size=8))
        assert max(len(piece.token_ids) for piece in pieces) > 2
        whole = model.generate("def count_words(text):\n", max_new_tokens=40, speculate="off")
        assert "".join(piece.text for piece in pieces) == whole.text
        assert tuple(i for piece in pieces for i in piece.token_ids) == whole.token_ids
        stats = pieces[-1].stats
        assert stats is not None
        assert stats["n_drafted"] == stats["n_accepted"] + stats["n_rejected"] > 0
        counts = stats["drafters"]["prefix"]
        assert counts["drafted"] + counts["siblings"] == stats["n_drafted"]
        assert stats["tokens_per_sweep"] == 40 / stats["n_token_sweeps"]


def test_a_stream_that_is_left_has_no_trace(tiny: vx.Model) -> None:
    plain = run(tiny, PROMPTS[1], N_TOKENS, speculate="off")
    for n_pieces in (1, 2, 3):
        stream = tiny.stream(PROMPTS[1], max_new_tokens=N_TOKENS, speculate="prefix", block_size=5)
        for _ in range(n_pieces):
            next(stream)
        del stream
    assert run(tiny, PROMPTS[1], N_TOKENS, speculate="prefix", block_size=5) == plain


@pytest.mark.parametrize("speculate", ["prefix", "early_exit"])
def test_a_sweep_that_fails_rolls_back(speculate: str, tiny_c3_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with vx.load(tiny_c3_dir) as model:
        plain = run(model, PROMPTS[0], N_TOKENS, speculate="off")
        forward = model._decoder.forward
        for fails_at in range(2, 9):
            calls = 0

            def failing(*arguments: object, fails_at: int = fails_at) -> object:
                nonlocal calls
                calls += 1
                result = forward(*arguments)
                if calls == fails_at:
                    raise CorruptTileError("a tile changed")
                return result

            generation = start(model, PROMPTS[0], N_TOKENS, speculate=speculate, block_size=3)
            chosen: list[int] = []
            with monkeypatch.context() as patch:
                patch.setattr(model._decoder, "forward", failing)
                with pytest.raises(CorruptTileError):
                    for block in generation.blocks():
                        chosen.extend(block.token_ids)
            # The last token chosen is not in the state yet.
            assert generation.state.length == len(PROMPTS[0]) + max(len(chosen) - 1, 0)
        assert run(model, PROMPTS[0], N_TOKENS, speculate=speculate, block_size=3) == plain


def test_closing_waits_for_no_pin_that_a_stream_left(tiny_c3_dir: Path) -> None:
    model = vx.load(tiny_c3_dir)
    stream = model.stream(PROMPTS[0], speculate="prefix", block_size=4)
    next(stream)
    next(stream)
    closing = threading.Thread(target=model.close)
    closing.start()
    closing.join(timeout=30)
    assert not closing.is_alive()
    with pytest.raises(vx.VortexError, match="closed"):
        list(stream)


def settled_bytes_read(model: vx.Model) -> int:
    """Once what a sweep had read ahead for the next one has arrived."""
    found = -1
    while found != (now := model.stats["bytes_compressed_read"]):
        found = now
        time.sleep(0.1)
    return found


def test_prefix_drafts_of_a_paged_model_read_nothing() -> None:
    """Where the budget holds all prefixes, drafting leaves the disk alone: that is what makes it cheap."""
    with vx.load("nano") as whole:
        total = whole.stats["total_bytes"]
    with vx.load("nano", ram_budget=int(total * 0.6)) as model:
        assert model.stats["n_kept_prefixes"] > 0
        prompt = model.tokenizer.encode("def main():\n")
        generation = start(model, prompt, 16, speculate="prefix", block_size=4)
        blocks = generation.blocks()
        for _ in range(3):
            next(blocks)
        state, sweep = generation.state, generation._draft_sweep
        before = settled_bytes_read(model)
        mark = state.snapshot()
        for token_id in (5, 6, 7):
            sweep(np.array([token_id]), state, Effort("prefix"))
        state.rollback(mark)
        assert settled_bytes_read(model) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"speculate": "on"}, "speculate must be"),
        ({"speculate": "prefix+prefix"}, "speculate must be"),
        ({"speculate": ""}, "speculate must be"),
        ({"speculate": "model"}, "draft_model"),
        ({"block_size": 0}, "block_size must be"),
        ({"block_size": 65}, "block_size must be"),
        ({"min_confidence": 1.5}, "min_confidence must be"),
        ({"entropy_top_k": 0}, "entropy_top_k must be"),
        ({"exact_copy_mode": 1}, "exact_copy_mode must be"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with vx.load("nano") as model, pytest.raises(ValueError, match=message):
        model.generate("def f", **arguments)  # type: ignore[arg-type]
