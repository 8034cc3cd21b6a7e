"""The configuration of a decoder, checked field by field from a Hugging Face `config.json`.

What each family computes was read from transformers 5: llama may have biases on all projections, qwen2 always has
them on q, k and v, qwen3 norms every q and k head, mistral and the qwens may attend through a sliding window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from vortex_engine.errors import ModelConfigError
from vortex_engine.models.fields import Fields, shown
from vortex_engine.models.rope import RopeConfig
from vortex_engine.models.rope_config import parse_rope

__all__ = ["FAMILIES", "MAX_MTP_K", "DecoderConfig", "eos_token_ids", "parse_config"]


@dataclass(frozen=True)
class Family:
    """What a model_type fixes and what transformers takes for keys its config.json leaves out."""

    architecture: str
    max_position_embeddings: int
    num_key_value_heads: int | None = None  # None: as many as num_attention_heads
    head_dim: int | None = None  # None: hidden_size / num_attention_heads
    sliding_window: int | None = None
    qk_norm: bool = False


FAMILIES = {
    "llama": Family("LlamaForCausalLM", 2048),
    "mistral": Family("MistralForCausalLM", 131072, num_key_value_heads=8, sliding_window=4096),
    "qwen2": Family("Qwen2ForCausalLM", 32768, num_key_value_heads=32, sliding_window=4096),
    "qwen3": Family("Qwen3ForCausalLM", 32768, 32, head_dim=128, sliding_window=4096, qk_norm=True),
}

# Keys that other architectures use to change the forward pass, with the values that leave it alone.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "alibi": (None, False),
    "attention_chunk_size": (None,),
    "attention_multiplier": (None,),
    "attention_out_bias": (None, False),
    "attn_logit_softcapping": (None,),
    "attn_temperature_tuning": (None, False),
    "clip_qkv": (None,),
    "dim_model_base": (None,),
    "embedding_multiplier": (None, 1),
    "final_logit_softcapping": (None,),
    "is_encoder_decoder": (None, False),
    "kv_lora_rank": (None,),
    "logit_scale": (None, 1),
    "logit_softcapping": (None,),
    "logits_scaling": (None, 1),
    "moe_intermediate_size": (None,),
    "no_rope_layer_interval": (None,),
    "no_rope_layers": (None, []),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "parallel_attn": (None, False),
    "q_lora_rank": (None,),
    "qk_layernorm": (None, False),
    "query_pre_attn_scalar": (None,),
    "residual_multiplier": (None, 1),
    "rope_interleaved": (None, False),
    "scale_depth": (None,),
    "scale_emb": (None, 1),
    "sliding_window_pattern": (None,),
    "use_parallel_residual": (None, False),
    "use_qk_norm": (None, False),
}
_MAX_DIM = 2**31 - 1
_MAX_LAYERS = 4096
MAX_MTP_K = 8


@dataclass(frozen=True)
class DecoderConfig:
    """Everything the forward pass of one decoder depends on besides its tensors."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    windows: tuple[int, ...]  # per layer; 0 attends to everything before
    rope: RopeConfig
    mtp_k: int = 0  # multi-token heads, see models/multi_token.py


def parse_config(config: dict[str, Any]) -> DecoderConfig:
    """Check a `config.json` and return what the decoder needs.

    Raises:
        ModelConfigError: a key this engine cannot honour, named with its value.
    """
    fields = Fields(config)
    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise ModelConfigError(
            f"config.json: model_type = {shown(model_type)} is not supported; supported are {', '.join(FAMILIES)}. "
            "Packed, it runs with transformers after: import vortex_engine.hf"
        )
    assert isinstance(model_type, str)
    _check_identity(fields, family)

    hidden = fields.integer("hidden_size", 1, _MAX_DIM)
    n_layers = fields.integer("num_hidden_layers", 1, _MAX_LAYERS)
    n_heads = fields.integer("num_attention_heads", 1, 65536)
    n_kv_heads = fields.integer("num_key_value_heads", 1, n_heads, missing=family.num_key_value_heads, null=n_heads)
    if n_heads % n_kv_heads:
        raise fields.error("num_key_value_heads", f"must divide num_attention_heads = {n_heads}")
    head_dim = _head_dim(fields, family, hidden, n_heads)
    max_positions = fields.integer("max_position_embeddings", 1, _MAX_DIM, missing=family.max_position_embeddings)
    attention_bias = fields.boolean("attention_bias") if model_type in ("llama", "qwen3") else False
    return DecoderConfig(
        model_type=model_type,
        vocab_size=fields.integer("vocab_size", 1, _MAX_DIM),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size", 1, _MAX_DIM),
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=fields.number("rms_norm_eps", 0.0, 1.0, missing=1e-6),
        max_position_embeddings=max_positions,
        tie_word_embeddings=fields.boolean("tie_word_embeddings"),
        qkv_bias=attention_bias or model_type == "qwen2",
        o_bias=attention_bias,
        mlp_bias=fields.boolean("mlp_bias") if model_type == "llama" else False,
        qk_norm=family.qk_norm,
        windows=_windows(fields, model_type, family, n_layers),
        rope=parse_rope(fields, max_positions),
        mtp_k=fields.integer("mtp_k", 0, MAX_MTP_K, missing=0, null=0),
    )


def eos_token_ids(config: dict[str, Any], generation_config: dict[str, Any], vocab_size: int) -> frozenset[int]:
    """The ids that end a text: of `generation_config.json` where it names any, else of `config.json`."""
    value: Any = generation_config.get("eos_token_id")
    file = "generation_config.json"
    if value is None:
        value, file = config.get("eos_token_id"), "config.json"
    if value is None:
        return frozenset()
    listed = cast("list[object]", value if isinstance(value, list) else [value])
    ids = [token_id for token_id in listed if isinstance(token_id, int) and not isinstance(token_id, bool)]
    if len(ids) != len(listed):
        raise ModelConfigError(f"{file}: eos_token_id = {shown(value)} must be an id or a list of ids")
    # An id past the vocabulary can never be produced; some checkpoints list one (-1 for none).
    return frozenset(token_id for token_id in ids if 0 <= token_id < vocab_size)


def _check_identity(fields: Fields, family: Family) -> None:
    config = fields.config
    architectures = config.get("architectures")
    if architectures is not None and architectures != [family.architecture]:
        raise fields.error("architectures", f"is not supported; it must be ['{family.architecture}']")
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise fields.error("hidden_act", "is not supported; supported is 'silu'")
    quantization = config.get("quantization_config")
    if quantization is not None and fields.object("quantization_config").get("quant_method") != "c3":
        raise fields.error("quantization_config", "is not supported; use the unquantised checkpoint")
    for key, neutral in _NEUTRAL.items():
        if key in config and config[key] not in neutral:
            raise fields.error(key, "is not supported: it would change the forward pass")


def _head_dim(fields: Fields, family: Family, hidden: int, n_heads: int) -> int:
    if fields.config.get("head_dim") is None and family.head_dim is None and hidden % n_heads:
        raise fields.error("hidden_size", f"must be a multiple of num_attention_heads = {n_heads} without head_dim")
    derived = hidden // n_heads
    head_dim = fields.integer("head_dim", 1, 65536, missing=family.head_dim or derived, null=derived)
    if head_dim % 2:
        raise fields.error("head_dim", f"= {head_dim} must be even for rotary embeddings", computed=True)
    return head_dim


def _windows(fields: Fields, model_type: str, family: Family, n_layers: int) -> tuple[int, ...]:
    config = fields.config
    layer_types: list[object] | None = config.get("layer_types")
    if layer_types is not None:
        known = ("full_attention", "sliding_attention")
        if type(layer_types) is not list or len(layer_types) != n_layers or any(t not in known for t in layer_types):
            raise fields.error("layer_types", f"must be {n_layers} entries, each one of {', '.join(known)}")
    window = fields.integer("sliding_window", 1, _MAX_DIM, missing=family.sliding_window or 0, null=0)
    if model_type in ("qwen2", "qwen3"):
        if not fields.boolean("use_sliding_window"):
            window = 0
        first = fields.integer("max_window_layers", 0, _MAX_DIM, missing=28)
        sliding = [window > 0 and i >= first for i in range(n_layers)]
        if layer_types is not None:
            sliding = [t == "sliding_attention" for t in layer_types]
        if any(sliding) and not window:
            raise fields.error("layer_types", "has sliding_attention, but no sliding_window is in use")
    elif model_type == "mistral":
        sliding = [window > 0] * n_layers
        if layer_types is not None and [t == "sliding_attention" for t in layer_types] != sliding:
            raise fields.error("layer_types", "is not supported: a mistral has one kind of attention in all layers")
    else:
        if window or "sliding_attention" in (layer_types or []):
            key = "sliding_window" if window else "layer_types"
            raise fields.error(key, f"is not supported for model_type '{model_type}'")
        sliding = [False] * n_layers
    return tuple(window if slides else 0 for slides in sliding)
