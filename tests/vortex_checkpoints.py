"""Tiny random VORTEX checkpoints in bf16, written without torch; sizes are odd where that is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tests.conftest import byte_level_tokenizer, write_bf16_safetensors

VOCAB = 323
CONFIG: dict[str, Any] = {
    "architectures": ["VortexForCausalLM"],
    "model_type": "vortex",
    "vocab_size": VOCAB,
    "hidden_size": 72,
    "num_hidden_layers": 3,
    "layer_parts": [
        ["conv", "ssm", "mlp"],
        ["conv", "attention", "ssm", "lava", "mlp"],
        ["attention", "lava", "mlp"],
    ],
    "intermediate_size": 100,
    "conv_kernel": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 18,
    "rope_theta": 10000.0,
    "kv": {"window_size": 37},
    "ssm_num_heads": 3,
    "ssm_head_dim": 32,
    "ssm_state_size": 10,
    "ssm_n_groups": 1,
    "ssm_conv_kernel": 4,
    "lava_num_heads": 3,
    "lava_key_dim": 16,
    "lava_value_dim": 24,
    "lava_clusters": 4,
    "lava_cluster_top": 2,
    "lava_top_k": 16,
    "lava_capacity": 192,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "eos_token_id": VOCAB - 1,
    "mtp_k": 2,
}
# What the duty cycles and the depth gate change, beside `CONFIG` as it is.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cycles": {"lava_read_every": 3, "lava_write_every": 5, "lava_contents": "int8", "mtp_k": 0},
    "surprise": {"lava_write_every": 16, "lava_write_on_surprise": 6.0, "tie_word_embeddings": True},
    "gated": {
        "lava_contents": "2bit",
        "depth_gating": {"min_layers": 1, "max_layers": 2, "entropy": 4.7, "hysteresis": 0.2},
        "mtp_k": 0,
    },
}


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint's tensors."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for i, parts in enumerate(config["layer_parts"]):
        layer = f"model.layers.{i}."
        if "conv" in parts or "attention" in parts:
            shapes[layer + "local_norm.weight"] = (hidden,)
        if "conv" in parts:
            shapes |= {
                layer + "local.conv1d.weight": (hidden, 1, config["conv_kernel"]),
                layer + "local.conv1d.bias": (hidden,),
            }
        if "attention" in parts:
            dim = config["head_dim"]
            heads, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
            shapes |= {layer + f"local.{name}_proj.weight": (kv, hidden) for name in "qkv"}
            shapes[layer + "local.q_proj.weight"] = (heads, hidden)
            shapes[layer + "local.o_proj.weight"] = (hidden, heads)
        if "ssm" in parts:
            heads = config["ssm_num_heads"]
            channels = heads * config["ssm_head_dim"]
            convolved = channels + 2 * config["ssm_n_groups"] * config["ssm_state_size"]
            shapes |= {
                layer + "ssm_norm.weight": (hidden,),
                layer + "ssm.in_proj.weight": (channels + convolved + heads, hidden),
                layer + "ssm.conv1d.weight": (convolved, 1, config["ssm_conv_kernel"]),
                layer + "ssm.conv1d.bias": (convolved,),
                layer + "ssm.A_log": (heads,),
                layer + "ssm.D": (heads,),
                layer + "ssm.dt_bias": (heads,),
                layer + "ssm.norm.weight": (channels,),
                layer + "ssm.out_proj.weight": (hidden, channels),
            }
        if "lava" in parts:
            heads, key, value = config["lava_num_heads"], config["lava_key_dim"], config["lava_value_dim"]
            shapes |= {
                layer + "lava_norm.weight": (hidden,),
                layer + "lava.q_proj.weight": (heads * key, hidden),
                layer + "lava.k_proj.weight": (key, hidden),
                layer + "lava.v_proj.weight": (value, hidden),
                layer + "lava.o_proj.weight": (hidden, heads * value),
                layer + "lava.log_scale": (heads,),
            }
        if "mlp" in parts:
            shapes |= {
                layer + "mlp_norm.weight": (hidden,),
                layer + "mlp.gate_proj.weight": (inner, hidden),
                layer + "mlp.up_proj.weight": (inner, hidden),
                layer + "mlp.down_proj.weight": (hidden, inner),
            }
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes | {f"mtp.{i}.weight": (hidden, hidden) for i in range(config["mtp_k"])}


def random_tensors(config: dict[str, Any], seed: int = 3) -> dict[str, np.ndarray]:
    """Weights with which every part matters: states that live for some to some hundred steps, sharp reads."""
    generator = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for name, shape in tensor_shapes(config).items():
        if name.endswith("A_log"):
            values = generator.uniform(-1.0, 2.0, shape)
        elif name.endswith("dt_bias"):
            values = generator.uniform(-5.0, -1.0, shape)
        elif name.endswith("log_scale"):
            values = generator.uniform(-0.8, 0.7, shape)
        elif "norm" in name:
            values = generator.normal(1.0, 0.1, shape)
        elif len(shape) == 2:
            values = generator.normal(0.0, 1.4 * shape[1] ** -0.5, shape)
        else:
            values = generator.normal(0.0, 0.4, shape)
        tensors[name] = values.astype(np.float32)
    return tensors


def write_vortex(folder: Path, **changes: Any) -> dict[str, np.ndarray]:
    """A checkpoint with changes to its configuration; returns what was to be written, before rounding."""
    config = CONFIG | changes
    folder.mkdir(parents=True, exist_ok=True)
    tensors = random_tensors(config)
    write_bf16_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    byte_level_tokenizer(VOCAB - 1).save(str(folder / "tokenizer.json"))
    return tensors
