"""What a config.json may say: supported values give the right configuration, all others are refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vortex_engine import models
from vortex_engine.errors import ModelConfigError
from vortex_engine.models.config import FAMILIES, eos_token_ids, parse_config
from vortex_engine.models.rope import RopeConfig, inverse_frequencies


def config(model_type: str = "llama", **changes: Any) -> dict[str, Any]:
    family = FAMILIES.get(model_type)
    base: dict[str, Any] = {
        "architectures": [family.architecture] if family else ["XForCausalLM"],
        "model_type": model_type,
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 512,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 256,
    }
    return base | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma"}, r"model_type = 'gemma' is not supported; supported are llama, mistral, qwen2, qwen3"),
        ({"model_type": None}, "model_type = None"),
        ({"model_type": ["llama"]}, "model_type"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
        ({"architectures": "LlamaForCausalLM"}, "architectures"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"hidden_size": "64"}, "hidden_size = '64' must be an integer"),
        ({"hidden_size": None}, "hidden_size = None must be an integer"),
        ({"hidden_size": True}, "hidden_size = True"),
        ({"hidden_size": 0}, "hidden_size = 0"),
        ({"hidden_size": 66}, "multiple of num_attention_heads = 8"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads = 3 must divide num_attention_heads = 8"),
        ({"num_key_value_heads": 16}, "num_key_value_heads = 16"),
        ({"head_dim": 7}, "head_dim = 7 must be even"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps = -1.0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps = nan"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings = 'yes'"),
        ({"attention_bias": 1}, "attention_bias = 1"),
        ({"sliding_window": 128}, "sliding_window = 128 is not supported for model_type 'llama'"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types"),
        ({"layer_types": ["full_attention"]}, "layer_types .* must be 3 entries"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config .*gptq"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"logit_scale": 0.0625}, "logit_scale = 0.0625"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0"),
        ({"query_pre_attn_scalar": 256}, "query_pre_attn_scalar = 256"),
        ({"num_local_experts": 8}, "num_local_experts = 8"),
        ({"rope_scaling": {"type": "su", "factor": 4.0}}, "rope_scaling.type = 'su' is not supported"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_scaling.rope_type = 'dynamic'"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_type = 'longrope'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}, "partial_rotary_factor = 0.25"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "one set of rope parameters"),
        ({"rope_parameters": {"rope_type": "default", "attention_factor": 2.0}}, "attention_factor = 2.0"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling.factor = 0"),
        ({"rope_scaling": {"rope_type": "linear", "type": "llama3", "factor": 2.0}}, "rope_type"),
        ({"rope_scaling": [1]}, "rope_scaling = .* must be an object"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}, "rope_theta = 10000.0 contradicts"),
        ({"rope_theta": 0}, "rope_theta = 0"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}},
            "high_freq_factor = 1 must be above low_freq_factor",
        ),
    ],
)
def test_what_cannot_be_honoured_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelConfigError, match=message):
        models.parse_config(config() | changes)


def test_keys_that_change_nothing_are_ignored() -> None:
    extra = {
        "use_cache": False,
        "attention_dropout": 0.5,
        "pretraining_tp": 2,
        "torch_dtype": "float16",
        "my_note": "x",
    }
    assert parse_config(config() | extra) == parse_config(config())


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_values_transformers_takes_for_missing_keys(model_type: str) -> None:
    minimal = config(model_type)
    for key in ("num_key_value_heads", "rms_norm_eps", "max_position_embeddings"):
        del minimal[key]
    minimal["num_attention_heads"] = 32
    parsed = parse_config(minimal)
    assert parsed.rms_norm_eps == 1e-6
    assert parsed.num_key_value_heads == {"mistral": 8}.get(model_type, 32)
    assert parsed.head_dim == {"qwen3": 128}.get(model_type, 2)
    assert parsed.max_position_embeddings == {"llama": 2048, "mistral": 131072}.get(model_type, 32768)
    assert parsed.windows == ((4096,) * 3 if model_type == "mistral" else (0, 0, 0))
    assert parsed.rope == RopeConfig(10000.0)
    assert not parsed.tie_word_embeddings


def test_biases_of_each_family() -> None:
    found = {
        (model_type, bias): (parsed.qkv_bias, parsed.o_bias, parsed.mlp_bias, parsed.qk_norm)
        for model_type in list(FAMILIES)
        for bias in (False, True)
        for parsed in [parse_config(config(model_type, attention_bias=bias))]
    }
    assert found == {
        ("llama", False): (False, False, False, False),
        ("llama", True): (True, True, False, False),
        ("mistral", False): (False, False, False, False),
        ("mistral", True): (False, False, False, False),
        ("qwen2", False): (True, False, False, False),
        ("qwen2", True): (True, False, False, False),
        ("qwen3", False): (False, False, False, True),
        ("qwen3", True): (True, True, False, True),
    }


@pytest.mark.parametrize(
    ("model_type", "changes", "windows"),
    [
        ("mistral", {"sliding_window": 100}, (100, 100, 100)),
        ("mistral", {"sliding_window": None}, (0, 0, 0)),
        ("mistral", {"sliding_window": None, "layer_types": ["full_attention"] * 3}, (0, 0, 0)),
        ("qwen2", {"sliding_window": 100, "max_window_layers": 1}, (0, 0, 0)),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}, (0, 9, 9)),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 9}, (0, 0, 0)),
        (
            "qwen3",
            {
                "use_sliding_window": True,
                "sliding_window": 9,
                "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            },
            (9, 0, 0),
        ),
    ],
)
def test_windows(model_type: str, changes: dict[str, Any], windows: tuple[int, ...]) -> None:
    assert parse_config(config(model_type, **changes)).windows == windows


def test_a_window_that_contradicts_itself_is_refused() -> None:
    sliding = ["sliding_attention"] * 3
    with pytest.raises(ModelConfigError, match="no sliding_window is in use"):
        parse_config(config("qwen2", layer_types=sliding))
    with pytest.raises(ModelConfigError, match="one kind of attention"):
        parse_config(config("mistral", sliding_window=None, layer_types=sliding))


def test_both_spellings_of_rope_are_one() -> None:
    inner = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    old = config(rope_theta=5e5, rope_scaling={"rope_type": "llama3", **inner})
    new = config(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **inner})
    expected = RopeConfig(5e5, "llama3", 8.0, 1.0, 4.0, 64)
    assert parse_config(old).rope == parse_config(new).rope == expected
    del inner["original_max_position_embeddings"]
    assert parse_config(config(rope_scaling={"type": "llama3", **inner})).rope.original_max_position_embeddings == 256


def test_frequencies_of_llama3_keep_short_waves_and_stretch_long_ones() -> None:
    rope = RopeConfig(500000.0, "llama3", 8.0, 1.0, 4.0, 8192)
    plain = inverse_frequencies(RopeConfig(500000.0), 128)
    scaled = inverse_frequencies(rope, 128)
    wavelength = 2 * np.pi / plain
    np.testing.assert_array_equal(scaled[wavelength < 8192 / 4], plain[wavelength < 8192 / 4])
    np.testing.assert_allclose(scaled[wavelength > 8192], plain[wavelength > 8192] / 8, rtol=1e-15)
    assert np.all(np.diff(scaled) < 0)


def test_eos_ids() -> None:
    assert eos_token_ids({"eos_token_id": 2}, {}, 10) == {2}
    assert eos_token_ids({"eos_token_id": 2}, {"eos_token_id": [3, 4, 99, -1]}, 10) == {3, 4}
    assert eos_token_ids({}, {}, 10) == frozenset()
    with pytest.raises(ModelConfigError, match=r"generation_config\.json: eos_token_id = 'x'"):
        eos_token_ids({}, {"eos_token_id": "x"}, 10)
