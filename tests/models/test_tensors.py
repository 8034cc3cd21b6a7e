"""A checkpoint whose tensors are not the ones its configuration asks for is refused by the tensor's name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import vortex_engine as vx

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 70,
    "max_position_embeddings": 32,
}
SHAPES = {
    "model.embed_tokens.weight": (70, 16),
    "model.layers.0.input_layernorm.weight": (16,),
    "model.layers.0.post_attention_layernorm.weight": (16,),
    "model.layers.0.self_attn.q_proj.weight": (16, 16),
    "model.layers.0.self_attn.k_proj.weight": (8, 16),
    "model.layers.0.self_attn.v_proj.weight": (8, 16),
    "model.layers.0.self_attn.o_proj.weight": (16, 16),
    "model.layers.0.self_attn.q_norm.weight": (8,),
    "model.layers.0.self_attn.k_norm.weight": (8,),
    "model.layers.0.mlp.gate_proj.weight": (24, 16),
    "model.layers.0.mlp.up_proj.weight": (24, 16),
    "model.layers.0.mlp.down_proj.weight": (16, 24),
    "model.norm.weight": (16,),
    "lm_head.weight": (70, 16),
}


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_hf_dir: Path) -> Path:
    folder = tmp_path / "hf"
    folder.mkdir()
    random = np.random.default_rng(0)
    tensors = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in SHAPES.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shutil.copy(tiny_hf_dir / "tokenizer.json", folder / "tokenizer.json")
    return folder


def logits(checkpoint: Path, changes: dict[str, Any], **config: Any) -> Any:
    """Logits after changing tensors (None removes one) and configuration."""
    file = checkpoint / "model.safetensors"
    tensors = {name: value for name, value in (load_file(file) | changes).items() if value is not None}
    save_file(tensors, file)
    (checkpoint / "config.json").write_text(json.dumps(CONFIG | config))
    target = checkpoint.parent / "c3"
    shutil.rmtree(target, ignore_errors=True)
    vx.pack(checkpoint, target)
    with vx.load(target, threads=1) as model:
        return model.logits([1, 2, 3])


@pytest.mark.parametrize("name", SHAPES)
def test_missing_and_misshapen(checkpoint: Path, name: str) -> None:
    with pytest.raises(vx.ModelConfigError, match=f"{name}' is missing"):
        logits(checkpoint, {name: None})
    wrong = tuple(size + 1 for size in SHAPES[name])
    with pytest.raises(vx.ModelConfigError, match=f"{name}' has shape .*asks for shape"):
        logits(checkpoint, {name: np.zeros(wrong, np.float32)})
    other_rank = (SHAPES[name][0],) if len(SHAPES[name]) == 2 else (*SHAPES[name], 2)
    with pytest.raises(vx.ModelConfigError, match=f"{name}' has shape"):
        logits(checkpoint, {name: np.zeros(other_rank, np.float32)})


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.self_attn.q_proj.bias", (16,)),
        ("model.layers.1.mlp.up_proj.weight", (24, 16)),
        ("lm_head.bias", (70,)),
        ("model.layers.0.mlp.experts.0.up_proj.weight", (24, 16)),
    ],
)
def test_a_tensor_that_would_take_part_is_refused(checkpoint: Path, name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(vx.ModelConfigError, match=f"{name}' has no place"):
        logits(checkpoint, {name: np.zeros(shape, np.float32)})


def test_what_cannot_take_part_changes_nothing(checkpoint: Path) -> None:
    plain = logits(checkpoint, {})
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),
        "vision_tower.proj.weight": np.ones((9, 9), np.float32),
    }
    np.testing.assert_array_equal(logits(checkpoint, extra), plain)


def test_a_tied_head_is_the_embedding(checkpoint: Path) -> None:
    embedding = load_file(checkpoint / "model.safetensors")["model.embed_tokens.weight"]
    untied = logits(checkpoint, {"lm_head.weight": embedding})
    np.testing.assert_array_equal(logits(checkpoint, {}, tie_word_embeddings=True), untied)
    np.testing.assert_array_equal(logits(checkpoint, {"lm_head.weight": None}, tie_word_embeddings=True), untied)
