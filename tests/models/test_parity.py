"""Logits and greedy ids against transformers' float32 run of the same random weights, for every family and dtype."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vortex_engine as vx

TOLERANCE = 2e-3
N_GREEDY = 12

LINEAR = {"rope_type": "linear", "factor": 2.5}
# With theta 50 three of the eight wavelengths lie where llama3 blends.
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
# Of the eight pairs the first two stay and the last two are interpolated.
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "beta_fast": 8.0,
    "beta_slow": 0.4,
    "mscale": 3.0,
    "mscale_all_dim": 0.5,
    "original_max_position_embeddings": 32,
}
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    *((f"{family}-{dtype}", family, dtype, {}) for family in FAMILIES for dtype in ("bfloat16", "float16", "float32")),
    *((f"{family}-tied", family, "bfloat16", {"tie_word_embeddings": True}) for family in FAMILIES),
    *((f"{family}-one-layer", family, "bfloat16", {"num_hidden_layers": 1}) for family in FAMILIES),
    ("llama-biases", "llama", "bfloat16", {"attention_bias": True, "mlp_bias": True}),
    ("llama-linear", "llama", "float32", {"rope_theta": 5000.0, "rope_scaling": LINEAR}),
    ("llama-llama3", "llama", "float32", {"rope_theta": 50.0, "rope_scaling": LLAMA3}),
    ("llama-yarn", "llama", "float32", {"rope_theta": 50.0, "rope_scaling": {**YARN, "truncate": False}}),
    ("qwen2-yarn", "qwen2", "float32", {"rope_theta": 50.0, "rope_scaling": YARN}),
    ("llama-multi-head", "llama", "float32", {"num_key_value_heads": 6}),
    ("llama-head-dim", "llama", "float32", {"head_dim": 22}),
    ("mistral-window", "mistral", "float32", {"sliding_window": 5}),
    ("mistral-no-window", "mistral", "float32", {"sliding_window": None}),
    (
        "qwen2-window",
        "qwen2",
        "float32",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "num_hidden_layers": 3},
    ),
    (
        "qwen3-layer-types",
        "qwen3",
        "float32",
        {"use_sliding_window": True, "sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    ("qwen3-biases", "qwen3", "bfloat16", {"attention_bias": True}),
    (
        "qwen2-0.5b-widths",
        "qwen2",
        "bfloat16",
        {"hidden_size": 896, "intermediate_size": 515, "num_attention_heads": 14, "tie_word_embeddings": True},
    ),
]


@pytest.mark.parametrize(
    ("family", "dtype", "overrides"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_same_logits_and_greedy_ids(
    tmp_path: Path, save_random_model: Callable[..., Any], family: str, dtype: str, overrides: dict[str, Any]
) -> None:
    reference = save_random_model(tmp_path / "hf", family, dtype, **overrides)
    import torch

    vx.pack(tmp_path / "hf", tmp_path / "c3")
    prompt = np.random.default_rng(3).integers(0, 1003, 21)
    with vx.load(tmp_path / "c3", threads=1) as model, torch.no_grad():
        found = model.logits(prompt.tolist())
        generated = model.generate(prompt.tolist(), max_new_tokens=N_GREEDY, ignore_eos=True).token_ids
        sequence = torch.tensor([[*prompt.tolist(), *generated]])
        # With cache off, every row is computed from the whole sequence, independently of our incremental path.
        expected = reference(sequence, use_cache=False).logits[0].numpy()
    rows = expected[: len(prompt)]
    assert np.abs(found - rows).max() / np.sqrt((rows**2).mean()) <= TOLERANCE
    n_decided = 0
    for row, token_id in zip(expected[len(prompt) - 1 :], generated, strict=False):
        second, first = np.partition(row, -2)[-2:]
        if first - second > TOLERANCE * np.sqrt((row**2).mean()):
            assert token_id == int(row.argmax())
            n_decided += 1
    assert n_decided > N_GREEDY // 2
