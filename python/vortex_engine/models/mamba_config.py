"""The configuration of Mamba models, checked field by field from a Hugging Face `config.json`.

What each family computes was read from transformers 5: mamba has a decay of every channel and state, steps of low rank
and a tied head; mamba2 has a decay of every head, groups of heads and a norm behind the gate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vortex_engine.layers import SSMShape
from vortex_engine.models.fields import Fields

__all__ = ["ARCHITECTURES", "MambaConfig", "parse_config"]

ARCHITECTURES = {"mamba": "MambaForCausalLM", "mamba2": "Mamba2ForCausalLM"}
_MAX_DIM = 2**31 - 1
_MAX_LAYERS = 4096


@dataclass(frozen=True)
class MambaConfig:
    """Everything the forward pass of one model depends on besides its tensors.

    Attributes:
        channels: of the scan; step_rank: of mamba's steps, 0 for mamba2.
        heads: sizes of mamba2's layers, None for mamba.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    channels: int
    n_state: int
    conv_width: int
    step_rank: int
    norm_eps: float
    use_bias: bool
    use_conv_bias: bool
    tie_word_embeddings: bool
    heads: SSMShape | None

    @property
    def max_position_embeddings(self) -> int:
        """A state of constant size ends nowhere."""
        return _MAX_DIM


def parse_config(config: dict[str, Any]) -> MambaConfig:
    """Check a `config.json` of model_type mamba or mamba2 and return what the model needs.

    Raises:
        ModelConfigError: a key this engine cannot honour, named with its value.
    """
    fields = Fields(config)
    model_type = config["model_type"]
    architectures = config.get("architectures")
    if architectures is not None and architectures != [ARCHITECTURES[model_type]]:
        raise fields.error("architectures", f"is not supported; it must be ['{ARCHITECTURES[model_type]}']")
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise fields.error("hidden_act", "is not supported; supported is 'silu'")
    if config.get("quantization_config") is not None:
        quantization = fields.object("quantization_config")
        if quantization.get("quant_method") != "c3":
            raise fields.error("quantization_config", "is not supported; use the unquantised checkpoint")
    has_heads = model_type == "mamba2"
    hidden = fields.integer("hidden_size", 1, _MAX_DIM, missing=4096 if has_heads else 768)
    channels = hidden * fields.integer("expand", 1, 1024, missing=2)
    n_state = fields.integer("state_size", 1, 65536, missing=128 if has_heads else 16)
    conv_width = fields.integer("conv_kernel", 1, 1024, missing=4)
    return MambaConfig(
        model_type=model_type,
        vocab_size=fields.integer("vocab_size", 1, _MAX_DIM, missing=32768 if has_heads else 50280),
        hidden_size=hidden,
        num_hidden_layers=fields.integer("num_hidden_layers", 1, _MAX_LAYERS, missing=64 if has_heads else 32),
        channels=channels,
        n_state=n_state,
        conv_width=conv_width,
        step_rank=0 if has_heads else _step_rank(fields, hidden),
        norm_eps=fields.number("layer_norm_epsilon", 0.0, 1.0, missing=1e-5),
        use_bias=fields.boolean("use_bias"),
        use_conv_bias=_boolean(fields, "use_conv_bias", missing=True),
        tie_word_embeddings=_boolean(fields, "tie_word_embeddings", missing=not has_heads),
        heads=_heads(fields, channels, n_state, conv_width) if has_heads else None,
    )


def _boolean(fields: Fields, key: str, *, missing: bool) -> bool:
    return missing if fields.config.get(key) is None else fields.boolean(key)


def _step_rank(fields: Fields, hidden: int) -> int:
    derived = math.ceil(hidden / 16)
    if fields.config.get("time_step_rank") == "auto":
        return derived
    return fields.integer("time_step_rank", 1, _MAX_DIM, missing=derived, null=derived)


def _heads(fields: Fields, channels: int, n_state: int, conv_width: int) -> SSMShape:
    n_heads = fields.integer("num_heads", 1, channels, missing=128)
    head_dim = fields.integer("head_dim", 1, channels, missing=64)
    if n_heads * head_dim != channels:
        rule = f"times head_dim = {head_dim} must be hidden_size times expand = {channels}"
        raise fields.error("num_heads", rule)
    n_groups = fields.integer("n_groups", 1, n_heads, missing=8)
    if n_heads % n_groups:
        raise fields.error("n_groups", f"must divide num_heads = {n_heads}")
    # Infinity as JSON of Python has it, or as transformers writes it.
    if fields.config.get("time_step_limit") not in (None, [0.0, math.inf], [0.0, {"__float__": "Infinity"}]):
        raise fields.error("time_step_limit", "is not supported; supported is [0.0, Infinity]")
    return SSMShape(n_heads, head_dim, n_state, n_groups, conv_width)
