"""Tiny random Mamba checkpoints in bf16, written without torch; sizes are odd where that is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tests.conftest import byte_level_tokenizer, write_bf16_safetensors

VOCAB = 323
CONFIGS: dict[str, dict[str, Any]] = {
    "mamba": {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "hidden_size": 100,
        "num_hidden_layers": 3,
        "state_size": 7,
        "conv_kernel": 4,
        "expand": 2,
        "time_step_rank": 6,
        "use_bias": False,
        "use_conv_bias": True,
        "vocab_size": VOCAB,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": VOCAB - 1,
    },
    "mamba2": {
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        "hidden_size": 96,
        "num_hidden_layers": 3,
        "state_size": 20,
        "num_heads": 12,
        "head_dim": 16,
        "n_groups": 2,
        "conv_kernel": 3,
        "expand": 2,
        "use_bias": True,
        "use_conv_bias": True,
        "vocab_size": VOCAB,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
        "time_step_limit": [0.0, {"__float__": "Infinity"}],
        "bos_token_id": None,
        "eos_token_id": VOCAB - 1,
    },
}


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint's tensors."""
    hidden, n_state, width = config["hidden_size"], config["state_size"], config["conv_kernel"]
    channels = hidden * config["expand"]
    shapes: dict[str, tuple[int, ...]] = {"backbone.embeddings.weight": (config["vocab_size"], hidden)}
    for i in range(config["num_hidden_layers"]):
        mixer = f"backbone.layers.{i}.mixer."
        shapes[f"backbone.layers.{i}.norm.weight"] = (hidden,)
        if config["model_type"] == "mamba":
            rank = config["time_step_rank"]
            convolved = channels
            shapes |= {
                mixer + "in_proj.weight": (2 * channels, hidden),
                mixer + "x_proj.weight": (rank + 2 * n_state, channels),
                mixer + "dt_proj.weight": (channels, rank),
                mixer + "dt_proj.bias": (channels,),
                mixer + "A_log": (channels, n_state),
                mixer + "D": (channels,),
            }
        else:
            heads = config["num_heads"]
            convolved = channels + 2 * config["n_groups"] * n_state
            shapes |= {
                mixer + "in_proj.weight": (channels + convolved + heads, hidden),
                mixer + "in_proj.bias": (channels + convolved + heads,),
                mixer + "out_proj.bias": (hidden,),
                mixer + "dt_bias": (heads,),
                mixer + "A_log": (heads,),
                mixer + "D": (heads,),
                mixer + "norm.weight": (channels,),
            }
        shapes |= {
            mixer + "conv1d.weight": (convolved, 1, width),
            mixer + "conv1d.bias": (convolved,),
            mixer + "out_proj.weight": (hidden, channels),
        }
    shapes["backbone.norm_f.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def random_tensors(config: dict[str, Any], seed: int = 3) -> dict[str, np.ndarray]:
    """Weights with which every part matters: states that live for some to some hundred steps."""
    generator = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for name, shape in tensor_shapes(config).items():
        if name.endswith("A_log"):
            values = generator.uniform(-1.0, 2.0, shape)
        elif name.endswith(("dt_proj.bias", "dt_bias")):
            values = generator.uniform(-5.0, -1.0, shape)
        elif "norm" in name:
            values = generator.normal(1.0, 0.1, shape)
        elif len(shape) == 2:
            values = generator.normal(0.0, shape[1] ** -0.5, shape)
        else:
            values = generator.normal(0.0, 0.4, shape)
        tensors[name] = values.astype(np.float32)
    return tensors


def write_mamba(folder: Path, model_type: str, **changes: Any) -> dict[str, np.ndarray]:
    """A checkpoint of a family with changes to its configuration; returns what was to be written, before rounding."""
    config = CONFIGS[model_type] | changes
    folder.mkdir(parents=True, exist_ok=True)
    tensors = random_tensors(config)
    write_bf16_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    byte_level_tokenizer(VOCAB - 1).save(str(folder / "tokenizer.json"))
    return tensors
