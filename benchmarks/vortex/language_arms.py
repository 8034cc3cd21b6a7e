"""The language models that are compared: equal width, depth and parameters; variants of the V-block beside a llama."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.vortex.blocks import BLOCK, VARIANTS, layers, of_size
from vortex_engine.layers import AttentionShape, LavaShape, SSMShape
from vortex_engine.models.vortex_config import VortexConfig, config_json

__all__ = ["BLOCK", "LLAMA", "language_arms"]

LLAMA = "llama"
_HIDDEN, _LAYERS, _LENGTH = 96, 4, 512
_SSM = SSMShape(n_heads=3, head_dim=32, n_state=16, n_groups=1, conv_width=4)
# Without an MLP the recurrence takes what is left.
_WIDE = SSMShape(n_heads=10, head_dim=32, n_state=16, n_groups=1, conv_width=4)
_LAVA = LavaShape(n_heads=2, key_dim=32, value_dim=32, n_lists=64, n_probe=8, k=32, capacity=1 << 14)
_ATTENTION = AttentionShape(n_heads=3, n_kv_heads=1, head_dim=32, window=128)


def language_arms(vocab: int) -> dict[str, Mapping[str, Any]]:
    """The `model` section of a `vortex train` configuration for every arm."""
    llama: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": _HIDDEN,
        "intermediate_size": 256,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": 3,
        "max_position_embeddings": _LENGTH,
    }
    target = _parameters(llama, vocab)
    arms: dict[str, Mapping[str, Any]] = {LLAMA: llama}
    for name, parts in VARIANTS.items():
        config = VortexConfig(
            vocab_size=vocab,
            hidden_size=_HIDDEN,
            layer_parts=layers(name, _LAYERS),
            attention=_ATTENTION if "attention" in parts else None,
            ssm=None if "ssm" not in parts else _SSM if "mlp" in parts else _WIDE,
            lava=_LAVA if "lava" in parts else None,
        )
        if "mlp" in parts:
            config = of_size(config, target, lambda chosen: _parameters(config_json(chosen), vocab))
        arms[name] = config_json(config)
    return arms


def _parameters(section: Mapping[str, Any], vocab: int) -> int:
    from vortex_engine.train.registry import build_trainable

    return sum(parameter.numel() for parameter in build_trainable(section, vocab).module.parameters())
