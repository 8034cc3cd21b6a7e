"""Random checkpoints of equal size for long contexts: a V-block model and a llama."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.c3.weights import write_checkpoint
from benchmarks.make_model import to_bf16, tokenizer

__all__ = ["BLOCK", "LLAMA", "VOCAB", "checkpoint", "n_parameters", "shape_of"]

BLOCK, LLAMA = "vortex", "llama"
VOCAB = 4096
_LONGEST = 1 << 20
_SHARED = {
    "vocab_size": VOCAB,
    "max_position_embeddings": _LONGEST,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-5,
    "bos_token_id": None,
    "eos_token_id": None,  # a random model must not end early
}
_SIZES: dict[bool, dict[str, Any]] = {
    False: {"hidden_size": 512, "num_hidden_layers": 8},
    True: {"hidden_size": 128, "num_hidden_layers": 2},
}
_INNER = {False: 1536, True: 768}  # of the llama; the V-block's takes what its other parts leave


def shape_of(kind: str, quick: bool) -> dict[str, Any]:
    """The `config.json`; llama has the grouped heads that such models have, four queries to a key."""
    hidden = _SIZES[quick]["hidden_size"]
    llama = {
        **_SHARED,
        **_SIZES[quick],
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "intermediate_size": _INNER[quick],
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": max(1, hidden // 256),
        "head_dim": 64,
        "rope_theta": 500000.0,
    }
    if kind == LLAMA:
        return llama
    block = {
        **_SHARED,
        **_SIZES[quick],
        "architectures": ["VortexForCausalLM"],
        "model_type": "vortex",
        "ssm_num_heads": hidden // 64,
        "ssm_head_dim": 64,
        "ssm_state_size": 64,
        "lava_num_heads": 4,
        "lava_key_dim": 64,
        "lava_clusters": 256,
        "lava_cluster_top": 16,
        "lava_top_k": 32,
        "lava_capacity": 16384,
    }
    target = n_parameters(llama)
    one, two = (n_parameters(block | {"intermediate_size": size}) for size in (1, 2))
    return block | {"intermediate_size": 1 + round((target - one) / (two - one))}


def n_parameters(config: Mapping[str, Any]) -> int:
    """Weights of such a model."""
    return sum(math.prod(shape) for _, shape in _shapes(config))


def checkpoint(folder: Path, kind: str, quick: bool) -> Path:
    """The checkpoint in bf16, made once."""
    if not (folder / "tokenizer.json").is_file() or (folder / "tokenizer.json").stat().st_size < 3:  # written last
        config = shape_of(kind, quick)
        shutil.rmtree(folder, ignore_errors=True)
        rng = np.random.default_rng(0)
        write_checkpoint(folder, {name: to_bf16(_values(rng, name, shape)) for name, shape in _shapes(config)})
        (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
        tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def _shapes(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}."
        parts = _llama_layer(config) if config["model_type"] == LLAMA else _block(config)
        yield from ((layer + name, shape) for name, shape in parts)
        yield layer + "mlp.gate_proj.weight", (inner, hidden)
        yield layer + "mlp.up_proj.weight", (inner, hidden)
        yield layer + "mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)


def _llama_layer(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden = config["hidden_size"]
    q, kv = (config[name] * config["head_dim"] for name in ("num_attention_heads", "num_key_value_heads"))
    yield "input_layernorm.weight", (hidden,)
    yield "post_attention_layernorm.weight", (hidden,)
    for name, rows in (("q", q), ("k", kv), ("v", kv)):
        yield f"self_attn.{name}_proj.weight", (rows, hidden)
    yield "self_attn.o_proj.weight", (hidden, q)


def _block(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, heads = config["hidden_size"], config["ssm_num_heads"]
    channels = heads * config["ssm_head_dim"]
    convolved = channels + 2 * config["ssm_state_size"]
    readers, key = config["lava_num_heads"], config["lava_key_dim"]
    for name in ("local", "ssm", "lava", "mlp"):
        yield f"{name}_norm.weight", (hidden,)
    yield "local.conv1d.weight", (hidden, 1, 4)
    yield "local.conv1d.bias", (hidden,)
    yield "ssm.in_proj.weight", (channels + convolved + heads, hidden)
    yield "ssm.conv1d.weight", (convolved, 1, 4)
    for name in ("conv1d.bias", "A_log", "D", "dt_bias", "norm.weight"):
        yield f"ssm.{name}", ({"conv1d.bias": convolved, "norm.weight": channels}.get(name, heads),)
    yield "ssm.out_proj.weight", (hidden, channels)
    for name, rows in (("q", readers * key), ("k", key), ("v", key)):
        yield f"lava.{name}_proj.weight", (rows, hidden)
    yield "lava.o_proj.weight", (hidden, readers * key)
    yield "lava.log_scale", (readers,)


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Norms of 1, states that live for some to some hundred steps, matrices that keep a row's size."""
    if "norm" in name or name.endswith(".D"):
        values = np.ones(shape)
    elif name.endswith("A_log"):
        values = rng.uniform(0.0, math.log(16.0), shape)
    elif name.endswith("dt_bias"):
        values = rng.uniform(-6.0, -2.0, shape)
    elif name.endswith("log_scale"):
        values = np.full(shape, math.log(2.0))
    else:
        values = rng.standard_normal(shape) * (shape[-1] ** -0.5 if len(shape) == 2 else 0.3)
    return values.astype(np.float32)
