"""Sampling is a pure function of logits, parameters, seed and position, and follows the law it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vortex_engine import ops
from vortex_engine.decode.sampling import SamplingParams
from vortex_engine.errors import VortexError
from vortex_engine.ops.reference_sampling import kept_ids, uniforms

CTX = ops.make_context(threads=1)
NO_DRAFT = np.empty(0, np.int64)
N_DRAWS = 3000
# The 99.99 % point of chi-square by degrees of freedom.
CHI_SQUARE_LIMIT = {1: 15.14, 2: 18.42, 3: 21.11, 4: 23.51, 5: 25.74, 7: 29.88, 11: 37.37}


def draw(logits: NDArray[np.float32], position: int = 0, **params: Any) -> int:
    chosen = SamplingParams(**params)
    return ops.bad_verify(CTX, NO_DRAFT, logits[None], chosen, chosen.seed, position)[1]


def law(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    return weights / weights.sum()


def check_law(logits: NDArray[np.float32], expected: NDArray[np.float64], **params: Any) -> None:
    drawn = np.array([draw(logits, position, seed=11, **params) for position in range(N_DRAWS)])
    counts = np.bincount(drawn, minlength=logits.size)
    assert not counts[expected == 0].any()
    likely = expected > 0
    wanted = expected[likely] * N_DRAWS
    assert ((counts[likely] - wanted) ** 2 / wanted).sum() < CHI_SQUARE_LIMIT[int(likely.sum()) - 1]


LOGITS = np.array([1.0, -0.5, 2.0, 0.3, 2.0, -1.0, 0.0, 1.5], np.float32)


def test_greedy_takes_the_lowest_id_on_ties() -> None:
    assert draw(LOGITS) == 2
    assert draw(LOGITS, temperature=0.0, top_p=0.1, seed=5) == 2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    check_law(LOGITS, law(LOGITS, temperature), temperature=temperature)


def test_different_seeds_at_one_position_follow_the_softmax_too() -> None:
    drawn = [draw(LOGITS, 17, seed=seed, temperature=1.0) for seed in range(N_DRAWS)]
    wanted = law(LOGITS) * N_DRAWS
    assert ((np.bincount(drawn, minlength=8) - wanted) ** 2 / wanted).sum() < CHI_SQUARE_LIMIT[7]


def filtered(expected: NDArray[np.float64], keep: list[int]) -> NDArray[np.float64]:
    result = np.zeros_like(expected)
    result[keep] = expected[keep] / expected[keep].sum()
    return result


@pytest.mark.parametrize(
    ("params", "keep"),
    [
        ({"top_k": 3}, [2, 4, 7]),
        ({"top_k": 1}, [2, 4]),  # a tie at the edge is kept whole
        ({"top_p": 0.5}, [2, 4]),
        ({"top_p": 0.75}, [2, 4, 7]),
        ({"min_p": 0.5}, [2, 4, 7]),
        ({"min_p": 1.0}, [2, 4]),
        ({"top_k": 4, "top_p": 0.99, "min_p": 0.3}, [0, 2, 4, 7]),
        ({"top_k": 100, "top_p": 1.0, "min_p": 0.0}, list(range(8))),
    ],
)
def test_filters_keep_what_they_say(params: dict[str, Any], keep: list[int]) -> None:
    check_law(LOGITS, filtered(law(LOGITS), keep), temperature=1.0, **params)


def test_filters_of_a_large_vocabulary_agree_with_transformers() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[test]'")
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: pip install 'vortex-engine[test]'"
    )
    random = np.random.default_rng(0)
    for spread, params in [
        (3.0, {"top_k": 50}),
        (3.0, {"top_p": 0.9}),
        (0.2, {"top_p": 0.97}),
        (3.0, {"min_p": 0.05}),
        (2.0, {"top_k": 4000, "top_p": 0.8, "min_p": 0.001}),
    ]:
        logits = random.normal(0, spread, 20011).astype(np.float32)
        kept = kept_ids(logits, SamplingParams(temperature=0.7, **params))
        scores = torch.from_numpy(logits)[None] / 0.7
        warpers = transformers.generation.logits_process
        for name, warper in [
            ("top_k", warpers.TopKLogitsWarper),
            ("top_p", warpers.TopPLogitsWarper),
            ("min_p", warpers.MinPLogitsWarper),
        ]:
            if name in params:
                scores = warper(params[name])(None, scores)
        expected = np.flatnonzero(torch.isfinite(scores[0]).numpy())
        # float32 sums put the last token of a nucleus on either side of its edge.
        assert len(np.setxor1d(kept, expected)) <= 1


def test_the_shortcut_of_large_vocabularies_is_the_plain_gumbel_argmax() -> None:
    random = np.random.default_rng(2)
    for position, spread in enumerate([0.0, 0.5, 3.0, 10.0, 60.0] * 8):
        logits = random.normal(0, spread, 30011).astype(np.float32)
        noise = uniforms(np.arange(30011), 9, position)
        plain = np.argmax((logits.astype(np.float64) - logits.max()) / 0.9 - np.log(-np.log(noise)))
        assert draw(logits, position, temperature=0.9, seed=9) == plain


def test_a_token_depends_on_seed_and_position_only() -> None:
    logits = np.random.default_rng(1).normal(0, 1, 5000).astype(np.float32)
    first = [draw(logits, position, seed=3, temperature=1.0) for position in range(50)]
    backwards = [draw(logits, position, seed=3, temperature=1.0) for position in reversed(range(50))][::-1]
    assert first == backwards
    assert first != [draw(logits, position, seed=4, temperature=1.0) for position in range(50)]
    assert len(set(first)) > 40


def test_noise_is_fixed_for_ever() -> None:
    found = uniforms(np.array([0, 1, 151935]), seed=42, position=7)
    np.testing.assert_allclose(
        found, [0.007967527401132046, 0.09326466189504978, 0.1261937850828877], rtol=0, atol=1e-15
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error(bad: float, temperature: float) -> None:
    logits = LOGITS.copy()
    logits[5] = bad
    with pytest.raises(VortexError, match="at position 8 are not finite"):
        draw(logits, 8, temperature=temperature)
    with pytest.raises(VortexError, match="not finite"):
        draw(np.full(4, -np.inf, np.float32), temperature=temperature)


def test_a_masked_token_and_extreme_temperatures() -> None:
    logits = LOGITS.copy()
    logits[2] = -np.inf
    assert draw(logits, temperature=1e-30) == 4
    assert draw(logits, temperature=1e-310, top_p=0.5) == 4
    drawn = {draw(logits, position, temperature=1e9) for position in range(300)}
    assert drawn == {0, 1, 3, 4, 5, 6, 7}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "1"),
        ("temperature", True),
        ("top_k", 0),
        ("top_k", 1.5),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", -0.01),
        ("min_p", 2),
        ("repetition_penalty", 0.0),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", 1.0),
    ],
)
def test_wrong_parameters_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be .*got {value!r}"):
        SamplingParams(**{name: value})
