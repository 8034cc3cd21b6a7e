"""Generation as a user sees it: where it stops, what it streams, what it refuses and what it reports."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vortex_engine as vx
from vortex_engine.decode.model import Model

PROMPT = "def f(x):"


@pytest.fixture(scope="module")
def model(tiny_c3_dir: Path) -> Iterator[Model]:
    with vx.load(tiny_c3_dir, threads=1) as model:
        yield model


def test_max_new_tokens(model: Model) -> None:
    result = model.generate(PROMPT, max_new_tokens=9, ignore_eos=True)
    assert (len(result.token_ids), result.finish_reason) == (9, "length")
    assert model.generate(PROMPT, max_new_tokens=4, ignore_eos=True).token_ids == result.token_ids[:4]


def test_text_is_the_decoded_ids(model: Model) -> None:
    prompt_ids = model.tokenizer.encode(PROMPT)
    result = model.generate(PROMPT, max_new_tokens=40, temperature=1.0, seed=1)
    assert result.text == model.tokenizer.decode([*prompt_ids, *result.token_ids])[len(PROMPT) :]
    assert model.generate(np.array(prompt_ids), max_new_tokens=40, temperature=1.0, seed=1) is not result


def test_a_stream_is_the_same_generation_in_pieces(model: Model) -> None:
    options: dict[str, Any] = {"max_new_tokens": 60, "temperature": 1.3, "seed": 2, "ignore_eos": True}
    whole = model.generate(PROMPT, **options)
    pieces = list(model.stream(PROMPT, **options))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert tuple(itertools.chain.from_iterable(piece.token_ids for piece in pieces)) == whole.token_ids
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert pieces[-1].stats is not None
    assert pieces[-1].stats["n_new_tokens"] == 60


def test_the_seed_decides_and_only_the_seed(model: Model) -> None:
    first = model.generate(PROMPT, max_new_tokens=30, temperature=1.0, seed=7)
    model.generate(PROMPT, max_new_tokens=3, temperature=1.0, seed=8)
    again = model.generate(PROMPT, max_new_tokens=30, temperature=1.0, seed=7)
    assert first.token_ids == again.token_ids
    assert model.generate(PROMPT, max_new_tokens=30, temperature=1.0, seed=8).token_ids != first.token_ids
    # The same position, reached through a longer prompt, has the same noise and so the same token.
    ids = [*model.tokenizer.encode(PROMPT), *first.token_ids]
    resumed = model.generate(ids[:-10], max_new_tokens=10, temperature=1.0, seed=7)
    assert resumed.token_ids == first.token_ids[-10:]


def test_eos_ends_the_text_and_is_not_in_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = model.generate(PROMPT, max_new_tokens=20, ignore_eos=True)
    eos = plain.token_ids[5]
    first = plain.token_ids.index(eos)
    monkeypatch.setattr(model, "_eos", frozenset({eos}))
    result = model.generate(PROMPT, max_new_tokens=20)
    assert (result.token_ids, result.finish_reason) == (plain.token_ids[:first], "stop")
    assert result.stats["tokens_per_sweep"] == 1.0
    assert model.generate(PROMPT, max_new_tokens=20, ignore_eos=True).token_ids == plain.token_ids


def test_stop_strings_across_tokens(model: Model) -> None:
    options: dict[str, Any] = {"max_new_tokens": 60, "temperature": 1.0, "seed": 3, "ignore_eos": True}
    plain = model.generate(PROMPT, **options).text
    at = next(i for i in range(10, len(plain) - 2) if "\ufffd" not in plain[i : i + 3])
    stop = plain[at : at + 3]
    for stops in (stop, [stop, "never there"]):
        result = model.generate(PROMPT, stop=stops, **options)
        assert result.text == plain[: plain.index(stop)]
        assert result.finish_reason == "stop"
        pieces = list(model.stream(PROMPT, stop=stops, **options))
        assert "".join(piece.text for piece in pieces) == result.text
    # A beginning that is not completed is text.
    assert model.generate(PROMPT, stop=plain[-1] + "\0never", **options).text == plain


def test_the_end_of_the_context(model: Model) -> None:
    context = model.context_length
    result = model.generate([5] * (context - 3), max_new_tokens=50, ignore_eos=True)
    assert (len(result.token_ids), result.finish_reason) == (3, "length")
    full = model.generate([5] * context, max_new_tokens=50)
    assert (full.token_ids, full.text, full.finish_reason) == ((), "", "length")
    with pytest.raises(vx.PromptError, match=f"{context + 1} tokens.* holds {context}"):
        model.generate([5] * (context + 1))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "empty"),
        ([], "no tokens"),
        ([1, 323], "323 of the prompt is not in the vocabulary of 323"),
        ([-1], "-1"),
        ([1.5], "1.5"),
        ([True], "True"),
        (["a"], "'a'"),
        (b"bytes", "bytes"),
        (3, "int"),
        (None, "NoneType"),
        ("\ud800", "Unicode"),
    ],
)
def test_bad_prompts(model: Model, prompt: Any, message: str) -> None:
    with pytest.raises(vx.PromptError, match=message):
        model.generate(prompt)
    with pytest.raises(vx.PromptError, match=message):
        model.logits(prompt)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 2.5),
        ("max_new_tokens", True),
        ("temperature", -1),
        ("top_p", 0),
        ("stop", ""),
        ("stop", ["ok", ""]),
        ("stop", 3),
        ("stop", [b"x"]),
        ("speculate", "on"),
        ("ignore_eos", 1),
        ("seed", "0"),
    ],
)
def test_wrong_arguments_are_named_before_anything_runs(model: Model, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        model.stream(PROMPT, **{name: value})


def test_wrong_arguments_of_load(tiny_c3_dir: Path, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"device": "cuda"}, vx.BackendUnavailableError, "cuda"),
        ({"device": "tpu"}, ValueError, "device must be .*'tpu'"),
        ({"ram_budget": "12 parsecs"}, ValueError, "ram_budget must .*12 parsecs"),
        ({"ram_budget": -1}, ValueError, "ram_budget"),
        ({"ram_budget": 1000}, vx.BudgetError, "1000"),
        ({"vram_budget": "1GiB"}, vx.BackendUnavailableError, "vram_budget"),
        ({"profile": "laptop"}, ValueError, "profile"),
        ({"threads": 0}, ValueError, "threads"),
        ({"prefill_chunk": 0}, ValueError, "prefill_chunk"),
        ({"policy": "random"}, ValueError, "policy must be one of stable, lru"),
    ]
    for options, error, message in cases:
        with pytest.raises(error, match=message):
            vx.load(tiny_c3_dir, **options)
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(vx.ModelConfigError, match=str(path)):
            vx.load(path)


def test_budgets_as_strings(tiny_c3_dir: Path) -> None:
    with vx.load(tiny_c3_dir, ram_budget="400000B") as model:
        assert model.stats["ram_budget_bytes"] == 400000
        result = model.generate(PROMPT, max_new_tokens=3)
        assert 0 < result.stats["peak_ram_bytes"] <= 400000
        assert result.stats["bytes_compressed_read"] > 0


def test_stats(model: Model) -> None:
    stats = model.generate(PROMPT, max_new_tokens=5, ignore_eos=True).stats
    assert (stats["n_prompt_tokens"], stats["n_new_tokens"]) == (len(model.tokenizer.encode(PROMPT)), 5)
    assert stats["tokens_per_sweep"] == 1.0
    assert stats["tokens_per_s"] > 0
    assert stats["prefill_tokens_per_s"] > 0
    assert stats["ttft_s"] > 0
    # 4 of the 5 new tokens went through the model: 2 layers, keys and values, 2 heads of 32 floats.
    assert stats["kv_bytes"] == (stats["n_prompt_tokens"] + 4) * 2 * 2 * 2 * 32 * 4
    sweep = stats["hits"] + stats["page_faults"] + stats["prefetch_hits"]
    again = model.generate(PROMPT, max_new_tokens=5, ignore_eos=True).stats
    assert again["hits"] + again["page_faults"] + again["prefetch_hits"] == sweep > 0
    assert model.stats["hits"] >= again["hits"]


def test_a_torch_tensor_of_logits(model: Model) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[test]'")
    found = model.logits(PROMPT, framework="torch")
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), model.logits(PROMPT))
    with pytest.raises(ValueError, match="framework must be"):
        model.logits(PROMPT, framework="jax")


def test_an_abandoned_stream_leaves_the_model_usable(model: Model) -> None:
    plain = model.generate(PROMPT, max_new_tokens=10, ignore_eos=True)
    stream = model.stream(PROMPT, max_new_tokens=50, ignore_eos=True)
    next(stream)
    assert model.generate(PROMPT, max_new_tokens=10, ignore_eos=True).token_ids == plain.token_ids
    stream.close()
    assert model.generate(PROMPT, max_new_tokens=10, ignore_eos=True).token_ids == plain.token_ids


def test_an_interruption_inside_a_sweep_leaves_the_model_usable(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = model.generate(PROMPT, max_new_tokens=10, ignore_eos=True)
    layer, calls = model._parts.ctx.table["decoder_layer"], itertools.count()

    def interrupted(*args: Any) -> Any:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return layer(*args)

    monkeypatch.setitem(model._parts.ctx.table, "decoder_layer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.generate(PROMPT, max_new_tokens=10, ignore_eos=True)
    assert model.generate(PROMPT, max_new_tokens=10, ignore_eos=True).token_ids == plain.token_ids


def test_streams_of_several_threads_do_not_disturb_each_other(tiny_c3_dir: Path) -> None:
    with vx.load(tiny_c3_dir, ram_budget="200KiB", threads=2) as model:
        options: dict[str, Any] = {"max_new_tokens": 15, "temperature": 1.0, "ignore_eos": True}
        expected = [model.generate(PROMPT, seed=seed, **options).token_ids for seed in range(4)]
        found: dict[int, tuple[int, ...]] = {}

        def work(seed: int) -> None:
            found[seed] = model.generate(PROMPT, seed=seed, **options).token_ids

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [found[seed] for seed in range(4)] == expected


def test_a_closed_model_says_so(tiny_c3_dir: Path) -> None:
    model = vx.load(tiny_c3_dir, threads=1)
    stream = model.stream(PROMPT, ignore_eos=True)
    next(stream)
    model.close()
    model.close()
    for use in (lambda: next(stream), lambda: model.generate(PROMPT), lambda: model.logits(PROMPT)):
        with pytest.raises(vx.VortexError, match="closed"):
            use()
