"""Small checkpoints of random weights of the four decoder architectures: what drafters of them guess is often wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.c3.weights import Bits, write_checkpoint
from benchmarks.make_model import to_bf16, tokenizer
from vortex_engine.models.config import FAMILIES

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
_VOCAB, _HIDDEN, _INNER, _LAYERS, _HEADS, _KV_HEADS, _HEAD_DIM = 320, 96, 208, 3, 6, 2, 16
_HEADS_OF_TOKENS = 2


def write_random_model(folder: Path, architecture: str) -> None:
    """Write bf16 weights at a scale that keeps logits apart, norms and biases that matter, a byte-level tokenizer."""
    config: dict[str, Any] = {
        "architectures": [FAMILIES[architecture].architecture],
        "model_type": architecture,
        "vocab_size": _VOCAB,
        "hidden_size": _HIDDEN,
        "intermediate_size": _INNER,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD_DIM,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "mtp_k": _HEADS_OF_TOKENS,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if architecture == "mistral":
        config["sliding_window"] = 48  # shorter than prompt and output
    write_checkpoint(folder, _tensors(architecture))
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer().save(str(folder / "tokenizer.json"))


def _tensors(architecture: str) -> dict[str, Bits]:
    generator = np.random.default_rng(ARCHITECTURES.index(architecture))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (_VOCAB, _HIDDEN)}
    q_rows, kv_rows = _HEADS * _HEAD_DIM, _KV_HEADS * _HEAD_DIM
    for layer in range(_LAYERS):
        at = f"model.layers.{layer}."
        shapes |= {at + "input_layernorm.weight": (_HIDDEN,), at + "post_attention_layernorm.weight": (_HIDDEN,)}
        for name, rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
            shapes[at + f"self_attn.{name}_proj.weight"] = (rows, _HIDDEN)
            if architecture == "qwen2":
                shapes[at + f"self_attn.{name}_proj.bias"] = (rows,)
            if architecture == "qwen3" and name != "v":
                shapes[at + f"self_attn.{name}_norm.weight"] = (_HEAD_DIM,)
        shapes[at + "self_attn.o_proj.weight"] = (_HIDDEN, q_rows)
        shapes |= {at + f"mlp.{name}_proj.weight": (_INNER, _HIDDEN) for name in ("gate", "up")}
        shapes[at + "mlp.down_proj.weight"] = (_HIDDEN, _INNER)
    shapes |= {f"mtp.{i}.weight": (_HIDDEN, _HIDDEN) for i in range(_HEADS_OF_TOKENS)}
    shapes |= {"model.norm.weight": (_HIDDEN,), "lm_head.weight": (_VOCAB, _HIDDEN)}
    tensors: dict[str, Bits] = {}
    for name, shape in shapes.items():
        values = generator.standard_normal(shape, dtype=np.float32)
        values *= np.float32(0.2 if len(shape) == 1 else 0.8 / shape[1] ** 0.5)
        if name.endswith("norm.weight"):
            values += np.float32(1)
        tensors[name] = to_bf16(values)
    return tensors
