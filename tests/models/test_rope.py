"""Rope frequencies against transformers' own, and what a configuration of yarn may say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vortex_engine.errors import ModelConfigError
from vortex_engine.models.config import parse_config
from vortex_engine.models.rope import inverse_frequencies

MAX_POSITIONS = 8192
YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
# factor, both mscales and truncate as DeepSeek, gpt-oss and Qwen give them, then the corners of the formula.
CASES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 2.5},
    "llama3": {**LLAMA3, "original_max_position_embeddings": 2048},
    "yarn": YARN,
    "original-missing": {"rope_type": "yarn", "factor": 4.0},
    "factor-null": {**YARN, "factor": None},
    "factor-below-1": {**YARN, "factor": 0.5},
    "betas": {**YARN, "beta_fast": 8.0, "beta_slow": 2},
    "betas-zero": {**YARN, "beta_fast": 0, "beta_slow": None},
    "betas-equal": {**YARN, "beta_fast": 5.0, "beta_slow": 5.0, "truncate": False},
    "attention-factor": {**YARN, "attention_factor": 1.7, "mscale": 2.0, "mscale_all_dim": 1.0},
    "mscales": {**YARN, "mscale": 0.707, "mscale_all_dim": 1.0},
    "one-mscale": {**YARN, "mscale": 0.707},
    "mscale-zero": {**YARN, "mscale": 0.707, "mscale_all_dim": 0},
    "truncate": {**YARN, "truncate": True},
    "no-truncate": {**YARN, "truncate": False, "factor": 32.0},
    "all-stay": {**YARN, "beta_fast": 1e-3, "beta_slow": 1e-4},
    "all-slow": {**YARN, "beta_fast": 1e6, "beta_slow": 1e5},
    "short-original": {**YARN, "original_max_position_embeddings": 4},
}


def config(rope: dict[str, Any], **changes: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 9, "num_hidden_layers": 1}
    limits = {"vocab_size": 5, "max_position_embeddings": MAX_POSITIONS}
    return {"model_type": "llama", **sizes, **limits, "rope_parameters": rope, **changes}


@pytest.mark.parametrize("theta", [10_000.0, 1e6, 50.0])
@pytest.mark.parametrize("head_dim", [64, 22])
@pytest.mark.parametrize("rope", CASES.values(), ids=CASES)
def test_frequencies_and_factor_of_transformers(rope: dict[str, Any], head_dim: int, theta: float) -> None:
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: pip install 'vortex-engine[test]'"
    )
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    ours = parse_config(config({**rope, "rope_theta": theta}, head_dim=head_dim)).rope
    theirs = transformers.LlamaConfig(**config({**rope, "rope_theta": theta}, head_dim=head_dim))
    expected, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](theirs, "cpu")
    # transformers computes in float32.
    np.testing.assert_allclose(inverse_frequencies(ours, head_dim), expected.numpy(), rtol=2e-6)
    assert ours.attention_factor == pytest.approx(factor, rel=1e-12)


def test_the_cases_blend() -> None:
    """Yarn keeps some frequencies, interpolates some and mixes some, so that the comparison sees all three."""
    plain = inverse_frequencies(parse_config(config({})).rope, 64)
    ratio = plain / inverse_frequencies(parse_config(config(YARN)).rope, 64)
    assert (ratio == 1).sum() > 5 and (ratio == 4).sum() > 5 and ((ratio > 1.01) & (ratio < 3.99)).sum() > 5


def test_the_original_length_beside_the_parameters_wins() -> None:
    rope = parse_config(config(YARN, original_max_position_embeddings=512)).rope
    assert rope.original_max_position_embeddings == 512


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factor": "4"}, "rope_parameters.factor = '4' must be a number"),
        ({"factor": 0}, "rope_parameters.factor = 0 must lie between"),
        ({"factor": float("inf")}, "rope_parameters.factor = inf"),
        ({"original_max_position_embeddings": 0}, "original_max_position_embeddings = 0"),
        ({"original_max_position_embeddings": 2048.5}, "original_max_position_embeddings = 2048.5"),
        ({"beta_fast": -1}, "beta_fast = -1"),
        ({"beta_fast": True}, "beta_fast = True must be a number"),
        ({"beta_slow": "1"}, "beta_slow = '1'"),
        ({"beta_fast": 2, "beta_slow": 3}, r"beta_fast = 2\.0 must not be below beta_slow = 3\.0"),
        ({"beta_slow": 64}, r"beta_fast = 32\.0 must not be below beta_slow = 64\.0"),
        ({"attention_factor": 0}, "attention_factor = 0"),
        ({"attention_factor": float("nan")}, "attention_factor = nan"),
        ({"mscale": -0.5}, r"mscale = -0\.5"),
        ({"mscale_all_dim": [1]}, r"mscale_all_dim = \[1\]"),
        ({"truncate": "no"}, "truncate = 'no' must be true or false"),
        ({"rope_theta": 1.0}, r"rope_theta = 1\.0 must be above 1"),
        ({"short_factor": [1.0]}, r"short_factor = \[1\.0\] is not supported with rope type 'yarn'"),
    ],
)
def test_bad_parameters_of_yarn_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelConfigError, match=message):
        parse_config(config({**YARN, **changes}))


def test_yarn_needs_its_factor() -> None:
    with pytest.raises(ModelConfigError, match=r"rope_parameters\.factor = None must be a number"):
        parse_config(config({"rope_type": "yarn"}))


@pytest.mark.parametrize("key", ["attention_factor", "beta_fast", "mscale", "truncate"])
def test_parameters_of_yarn_mean_nothing_elsewhere(key: str) -> None:
    with pytest.raises(ModelConfigError, match=f"{key} = 1 is not supported with rope type 'llama3'"):
        parse_config(config({**LLAMA3, key: 1}))
