"""A sampler chooses the same tokens whether they were drafted or not, with every processor on or off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vortex_engine import ops
from vortex_engine.decode.history import History
from vortex_engine.decode.processors import make_processors
from vortex_engine.decode.sampler import Sampler
from vortex_engine.decode.sampling import SamplingParams
from vortex_engine.errors import VortexError

VOCAB = 23
CTX = ops.make_context(threads=1)
PROMPT = [3, 1, 4, 1, 5]
LogitsOf = Callable[[Sequence[int]], NDArray[np.float32]]


def random_model(seed: int, vocab: int = VOCAB) -> LogitsOf:
    """Logits that are a fixed function of the last two ids and of the length."""
    table = np.random.default_rng(seed).normal(0, 1.5, (3, vocab, vocab)).astype(np.float32)

    def logits(ids: Sequence[int]) -> NDArray[np.float32]:
        return table[0, ids[-1]] + table[1, ids[-2]] + table[2, len(ids) % vocab]

    return logits


def plain_tokens(model: LogitsOf, sampler: Sampler, n_tokens: int) -> list[int]:
    ids = list(PROMPT)
    for _ in range(n_tokens):
        n_accepted, token_id = sampler.verify([], model(ids)[None])
        assert n_accepted == 0
        sampler.push([token_id])
        ids.append(token_id)
    return ids[len(PROMPT) :]


def drafted_tokens(
    model: LogitsOf, sampler: Sampler, wanted: Sequence[int], block: int, rng: np.random.Generator
) -> tuple[list[int], int]:
    """Tokens by verifying drafts of `block` ids whose first ones are right, and how many were accepted."""
    ids, n_total = list(PROMPT), 0
    while len(ids) < len(PROMPT) + len(wanted):
        done = len(ids) - len(PROMPT)
        n_right = int(rng.integers(block + 1))
        draft = list(wanted[done : done + n_right])
        draft += [int(token_id) for token_id in rng.integers(0, VOCAB, block - len(draft))]
        rows = np.stack([model(ids + draft[:i]) for i in range(block + 1)])
        before = rows.copy()
        n_accepted, token_id = sampler.verify(draft, rows)
        np.testing.assert_array_equal(rows, before)
        assert n_accepted >= min(n_right, len(wanted) - done)
        sampler.push([*draft[:n_accepted], token_id])
        ids += [*draft[:n_accepted], token_id]
        assert len(sampler) == len(ids)
        n_total += n_accepted
    return ids[len(PROMPT) : len(PROMPT) + len(wanted)], n_total


PROCESSORS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.3},
    {"presence_penalty": 0.7},
    {"frequency_penalty": 0.4},
    {"no_repeat_ngram": 2},
    {"no_repeat_ngram": 3, "repetition_penalty": 1.2, "penalty_window": 6},
    {
        "repetition_penalty": 1.1,
        "presence_penalty": -0.3,
        "frequency_penalty": 0.5,
        "penalty_window": 9,
        "no_repeat_ngram": 4,
    },
]
LAWS: list[dict[str, Any]] = [{}, {"temperature": 1.0, "seed": 4}, {"temperature": 0.8, "top_p": 0.9, "top_k": 9}]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("processors", PROCESSORS)
def test_drafted_tokens_are_the_plain_ones(law: dict[str, Any], processors: dict[str, Any]) -> None:
    params = SamplingParams(**law, **processors)
    rng = np.random.default_rng(1)
    for block in range(1, 17):
        model = random_model(block)
        plain = plain_tokens(model, Sampler(CTX, params, PROMPT, VOCAB), 40)
        drafted, n_accepted = drafted_tokens(model, Sampler(CTX, params, PROMPT, VOCAB), plain, block, rng)
        assert drafted == plain
        assert n_accepted > 0


def test_verifying_leaves_the_history_as_it_was() -> None:
    params = SamplingParams(repetition_penalty=1.5, no_repeat_ngram=2, frequency_penalty=0.5, penalty_window=4)
    model = random_model(0)
    plain = plain_tokens(model, Sampler(CTX, params, PROMPT, VOCAB), 9)
    sampler = Sampler(CTX, params, PROMPT, VOCAB)
    rows = np.stack([model(PROMPT + plain[:i]) for i in range(9)])
    for _ in range(2):
        assert sampler.verify(plain[:8], rows) == (8, plain[8])
        assert sampler.draft(rows[3], plain[:3])[0] == plain[3]
        assert len(sampler) == len(PROMPT)


@pytest.mark.parametrize("processors", PROCESSORS)
def test_a_draft_from_the_models_own_logits_is_always_accepted(processors: dict[str, Any]) -> None:
    params = SamplingParams(temperature=1.2, top_p=0.9, seed=9, **processors)
    model, sampler, ids = random_model(3), Sampler(CTX, params, PROMPT, VOCAB), list(PROMPT)
    for _ in range(6):
        pending: list[int] = []
        for _ in range(5):
            token_id, confidence = sampler.draft(model(ids + pending), pending)
            assert 0.0 < confidence <= 1.0
            pending.append(token_id)
        rows = np.stack([model(ids + pending[:i]) for i in range(6)])
        n_accepted, token_id = sampler.verify(pending, rows)
        assert n_accepted == 5
        sampler.push([*pending, token_id])
        ids += [*pending, token_id]


def test_confidence_is_the_probability_among_the_largest() -> None:
    logits = np.random.default_rng(0).normal(0, 2, 5000).astype(np.float32)
    for k in (1, 64, 5000, 9000):
        token_id, confidence = Sampler(CTX, SamplingParams(), [0], 5000, entropy_top_k=k).draft(logits, [])
        largest = np.sort(logits.astype(np.float64))[::-1][:k]
        assert token_id == int(logits.argmax())
        assert confidence == pytest.approx(1.0 / np.exp(largest - largest[0]).sum(), rel=1e-12)
    # A token outside of the largest counts beside them.
    rare = np.array([0.0, 0.0, -1.0], np.float32)
    found = {
        Sampler(CTX, SamplingParams(1.0, seed=seed), [0], 3, entropy_top_k=2).draft(rare, []) for seed in range(60)
    }
    by_id = dict(found)
    assert by_id[2] == pytest.approx(np.exp(-1) / (2 + np.exp(-1))) and by_id[0] == pytest.approx(0.5)


def test_others_are_what_would_be_chosen_if_those_before_them_were_wrong() -> None:
    logits = np.log(np.array([0.1, 0.4, 0.3, 0.2], np.float32))
    sampler = Sampler(CTX, SamplingParams(), [1], vocab_size=4)
    first, confidence = sampler.draft(logits, [])
    others = sampler.others(logits, [], first, 5)
    assert [first, *(token_id for token_id, _ in others)] == [1, 2, 3, 0]
    np.testing.assert_allclose([confidence, *(value for _, value in others)], [0.4, 3 / 6, 2 / 6, 1 / 6], rtol=1e-5)
    unrepeated = Sampler(CTX, SamplingParams(no_repeat_ngram=1), [1], vocab_size=4)
    assert [token_id for token_id, _ in unrepeated.others(logits, [2], 3, 5)] == [0]
    drawing = Sampler(CTX, SamplingParams(temperature=1.0, seed=3), [1], vocab_size=4)
    first, _ = drawing.draft(logits, [])
    without = logits.copy()
    without[first] = -np.inf
    assert drawing.draft(without, [])[0] == drawing.others(logits, [], first, 1)[0][0]
    assert logits.argmax() == 1
    assert sampler.others(np.full(4, np.nan, np.float32), [], 0, 2) == []


def test_a_draft_that_cannot_be_made_has_no_confidence_and_raises_nothing() -> None:
    sampler = Sampler(CTX, SamplingParams(), PROMPT, VOCAB)
    token_id, confidence = sampler.draft(np.full(VOCAB, np.nan, np.float32), [])
    assert token_id == 0 and 0.0 < confidence < 1e-300
    exhausted = Sampler(CTX, SamplingParams(no_repeat_ngram=1), [0, 1], 3)
    assert exhausted.draft(np.zeros(3, np.float32), [2])[1] < 1e-300
    assert exhausted.verify([], np.zeros((1, 3), np.float32)) == (0, 2)


def processed_choice(logits: Sequence[float], prompt: Sequence[int], output: Sequence[int], **params: Any) -> int:
    """The greedy choice after a prompt and an output."""
    sampler = Sampler(CTX, SamplingParams(**params), prompt, len(logits))
    sampler.push(output)
    return sampler.verify([], np.array([logits], np.float32))[1]


def test_penalties_look_where_they_say() -> None:
    logits = [1.0, 0.9, 0.0]
    # A repetition penalty sees the prompt, the other two only the output.
    assert processed_choice(logits, [0], [], repetition_penalty=1.2) == 1
    assert processed_choice(logits, [0], [], presence_penalty=0.5, frequency_penalty=0.5) == 0
    assert processed_choice(logits, [2], [0], presence_penalty=0.2) == 1
    assert processed_choice(logits, [2], [0], frequency_penalty=0.06) == 0
    assert processed_choice(logits, [2], [0, 0], frequency_penalty=0.06) == 1
    assert processed_choice([1.0, 0.9, -0.1], [2], [1], presence_penalty=-0.2) == 1
    # Outside of the window nothing is seen.
    assert processed_choice(logits, [0], [2], repetition_penalty=1.2, penalty_window=2) == 1
    assert processed_choice(logits, [0], [2], repetition_penalty=1.2, penalty_window=1) == 0
    assert processed_choice(logits, [2], [0, 0, 2], frequency_penalty=0.06, penalty_window=2) == 0
    assert processed_choice(logits, [2], [0, 0, 2], frequency_penalty=0.06, penalty_window=3) == 1
    # The prompt's part of a window is no output.
    assert processed_choice(logits, [0, 0], [2], presence_penalty=0.5, penalty_window=3) == 0


def test_an_ngram_is_not_completed_twice() -> None:
    logits = [1.0, 0.9, 0.5]
    assert processed_choice(logits, [1, 0, 2, 1], [], no_repeat_ngram=2) == 1
    assert processed_choice(logits, [1, 0, 2], [1], no_repeat_ngram=2) == 1
    assert processed_choice(logits, [1, 0, 2, 1], [], no_repeat_ngram=3) == 0
    assert processed_choice(logits, [2, 1, 0, 2, 1], [], no_repeat_ngram=3) == 1
    assert processed_choice(logits, [0], [], no_repeat_ngram=1) == 1
    assert processed_choice(logits, [0], [], no_repeat_ngram=5) == 0


def test_ngrams_and_repetition_agree_with_transformers() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[test]'")
    processors = pytest.importorskip(
        "transformers", reason="transformers is not installed: pip install 'vortex-engine[test]'"
    ).generation.logits_process
    rng = np.random.default_rng(5)
    for n in (1, 2, 3):
        for length in (1, 2, 7, 40):
            ids, logits = rng.integers(0, VOCAB // 2, length).tolist(), rng.normal(0, 1, VOCAB).astype(np.float32)
            scores = torch.from_numpy(logits.copy())[None]
            scores = processors.RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([ids]), scores)
            scores = processors.NoRepeatNGramLogitsProcessor(n)(torch.tensor([ids]), scores)
            history = History(ids, VOCAB, ngram=n)
            row = logits.copy()

            for processor in make_processors(SamplingParams(repetition_penalty=1.3, no_repeat_ngram=n)):
                processor.apply(row, history)
            np.testing.assert_array_equal(row, scores[0].numpy())


def test_what_is_popped_was_never_there() -> None:
    rng = np.random.default_rng(2)
    for window, ngram in product([None, 1, 3, 50], [None, 1, 2, 4]):
        ids = rng.integers(0, 4, 30).tolist()
        history = History(ids[:5], 4, penalty_window=window, ngram=ngram)
        for length in range(5, 30):
            for extra in rng.integers(0, 4, 6).tolist():
                history.push(extra)
            for _ in range(6):
                history.pop()
            history.push(ids[length])
            seen = ids[: length + 1][-window if window else None :]
            output = ids[5 : length + 1][-window if window else None :]
            np.testing.assert_array_equal(history.sequence_counts, np.bincount(seen, minlength=4))
            np.testing.assert_array_equal(history.output_counts, np.bincount(output, minlength=4))
            if ngram is not None:
                grams = {tuple(ids[i : i + ngram]) for i in range(length + 2 - ngram)}
                context = tuple(ids[: length + 1][length + 2 - ngram :])
                assert set(history.followers()) == {token for token in range(4) if (*context, token) in grams}


def test_a_row_without_an_allowed_id_is_an_error_only_when_it_is_reached() -> None:
    sampler = Sampler(CTX, SamplingParams(no_repeat_ngram=1), [0, 1], 4)
    rows = np.tile(np.array([0.0, 0.0, 2.0, 1.0], np.float32), (3, 1))
    assert sampler.verify([3, 2], rows) == (0, 2)
    with pytest.raises(
        VortexError, match=r"no_repeat_ngram=1 forbids every id at position 4; raise it or leave it out"
    ):
        sampler.verify([2, 3], rows)
    assert sampler.verify([2], rows[:2]) == (1, 3)  # the error left the history as it was
    with pytest.raises(VortexError, match="position 2 are not finite"):
        sampler.verify([], np.full((1, 4), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"\[verify\] logits must have one row more than the 2 drafted ids, got 2"):
        sampler.verify([2, 3], rows[:2])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("presence_penalty", float("nan")),
        ("presence_penalty", "1"),
        ("frequency_penalty", float("inf")),
        ("penalty_window", 0),
        ("penalty_window", 2.0),
        ("no_repeat_ngram", 0),
    ],
)
def test_wrong_processors_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be .*got {value!r}"):
        SamplingParams(**{name: value})
