"""The configuration of a VORTEX model: which parts each layer has and how large they are, as a `config.json` says it.

Of a key that is left out the value is what `VortexConfig` and the dataclasses of its parts have by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from vortex_engine.layers import AttentionShape, LavaShape, SSMShape
from vortex_engine.models.config import MAX_MTP_K
from vortex_engine.models.fields import Fields

__all__ = ["ARCHITECTURE", "PARTS", "DepthGating", "VortexConfig", "config_json", "parse_config"]

ARCHITECTURE = "VortexForCausalLM"
# In the order in which a layer computes them; conv and attention are one mixer.
PARTS = ("conv", "attention", "ssm", "lava", "mlp")
CONTENTS = ("fp16", "int8", "2bit")  # and below: what a LavaBank takes
_MAX_DIM = 2**31 - 1
_MAX_LAYERS = 4096
_MAX_SLOTS = 2**30
_MAX_READ = 2**24
_MAX_LISTS = 2**16
_MAX_KEY = 4096


@dataclass(frozen=True)
class DepthGating:
    """Rows that are sure of the next token leave out the MLPs of the last layers.

    A row is shallow where the entropy of the head's distribution after `min_layers` layers is at most `entropy` nats,
    deep where it is above `entropy + hysteresis`, and in between what the row before it was. A deep row has the MLPs of
    the first `max_layers` layers, a shallow one those of the first `min_layers`. All else is computed for every row, so
    that states have no gaps.
    """

    min_layers: int
    max_layers: int
    entropy: float
    hysteresis: float = 0.0


@dataclass(frozen=True)
class VortexConfig:
    """Everything the forward pass of one model depends on besides its tensors.

    Attributes:
        layer_parts: of each layer the parts that it has, of `PARTS` and in their order.
        intermediate_size: of the gated MLP.
        conv_kernel: columns of the local convolution.
        attention, ssm, lava: sizes of these parts; None where no layer has them.
        mtp_k: multi-token heads, see `models/multi_token.py`.
    """

    vocab_size: int
    hidden_size: int
    layer_parts: tuple[tuple[str, ...], ...]
    intermediate_size: int = 0
    conv_kernel: int = 4
    attention: AttentionShape | None = None
    ssm: SSMShape | None = None
    lava: LavaShape | None = None
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    max_position_embeddings: int = _MAX_DIM
    mtp_k: int = 0
    depth_gating: DepthGating | None = None

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the model."""
        return len(self.layer_parts)

    def has(self, part: str) -> bool:
        """Whether any layer has this part."""
        return any(part in parts for parts in self.layer_parts)


def parse_config(config: dict[str, Any]) -> VortexConfig:
    """Check a `config.json` of model_type vortex and return what the model needs.

    Raises:
        ModelConfigError: a key this engine cannot honour, named with its value.
    """
    fields = Fields(config)
    if config.get("model_type") != "vortex":
        raise fields.error("model_type", "is not supported; it must be 'vortex'")
    if config.get("architectures") not in (None, [ARCHITECTURE]):
        raise fields.error("architectures", f"is not supported; it must be ['{ARCHITECTURE}']")
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise fields.error("hidden_act", "is not supported; supported is 'silu'")
    if config.get("quantization_config") is not None:
        quantization = fields.object("quantization_config")
        if quantization.get("quant_method") != "c3":
            raise fields.error("quantization_config", "is not supported; use the unquantised checkpoint")
    hidden = fields.integer("hidden_size", 1, _MAX_DIM)
    parts = _layer_parts(fields)
    present = {part for layer in parts for part in layer}
    return VortexConfig(
        vocab_size=fields.integer("vocab_size", 1, _MAX_DIM),
        hidden_size=hidden,
        layer_parts=parts,
        intermediate_size=fields.integer("intermediate_size", 1, _MAX_DIM) if "mlp" in present else 0,
        conv_kernel=fields.integer("conv_kernel", 2, 16, missing=VortexConfig.conv_kernel),
        attention=_attention(fields, hidden) if "attention" in present else None,
        ssm=_ssm(fields, hidden) if "ssm" in present else None,
        lava=_lava(fields, hidden) if "lava" in present else None,
        rope_theta=fields.number("rope_theta", 0.0, 1e12, missing=VortexConfig.rope_theta),
        rms_norm_eps=fields.number("rms_norm_eps", 0.0, 1.0, missing=VortexConfig.rms_norm_eps),
        tie_word_embeddings=_boolean(fields, "tie_word_embeddings", missing=VortexConfig.tie_word_embeddings),
        max_position_embeddings=fields.integer("max_position_embeddings", 1, _MAX_DIM, missing=_MAX_DIM),
        mtp_k=fields.integer("mtp_k", 0, MAX_MTP_K, missing=0, null=0),
        depth_gating=_depth_gating(fields, len(parts)),
    )


def config_json(config: VortexConfig) -> dict[str, Any]:
    """The `config.json` that `parse_config` reads as this configuration."""
    document: dict[str, Any] = {
        "architectures": [ARCHITECTURE],
        "model_type": "vortex",
        "hidden_act": "silu",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "layer_parts": [list(parts) for parts in config.layer_parts],
        "conv_kernel": config.conv_kernel,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "max_position_embeddings": config.max_position_embeddings,
        "mtp_k": config.mtp_k,
    }
    if config.intermediate_size:
        document["intermediate_size"] = config.intermediate_size
    if (attention := config.attention) is not None:
        document |= {
            "num_attention_heads": attention.n_heads,
            "num_key_value_heads": attention.n_kv_heads,
            "head_dim": attention.head_dim,
            "rope_theta": config.rope_theta,
            "kv": {"window_size": attention.window},
        }
    if (ssm := config.ssm) is not None:
        document |= {
            "ssm_num_heads": ssm.n_heads,
            "ssm_head_dim": ssm.head_dim,
            "ssm_state_size": ssm.n_state,
            "ssm_n_groups": ssm.n_groups,
            "ssm_conv_kernel": ssm.conv_width,
        }
    if (lava := config.lava) is not None:
        document |= {
            "lava_num_heads": lava.n_heads,
            "lava_key_dim": lava.key_dim,
            "lava_value_dim": lava.value_dim,
            "lava_clusters": lava.n_lists,
            "lava_cluster_top": lava.n_probe,
            "lava_top_k": lava.k,
            "lava_capacity": lava.capacity,
            "lava_contents": lava.contents,
            "lava_tail": lava.tail,
            "lava_half_life": lava.half_life,
            "lava_read_every": lava.read_every,
            "lava_write_every": lava.write_every,
            "lava_write_on_surprise": lava.write_on_surprise,
        }
    if (gating := config.depth_gating) is not None:
        document["depth_gating"] = {
            "min_layers": gating.min_layers,
            "max_layers": gating.max_layers,
            "entropy": gating.entropy,
            "hysteresis": gating.hysteresis,
        }
    return document


def _boolean(fields: Fields, key: str, *, missing: bool) -> bool:
    return missing if fields.config.get(key) is None else fields.boolean(key)


def _layer_parts(fields: Fields) -> tuple[tuple[str, ...], ...]:
    n_layers = fields.integer("num_hidden_layers", 1, _MAX_LAYERS)
    listed: object = fields.config.get("layer_parts")
    if listed is None:
        return (tuple(part for part in PARTS if part != "attention"),) * n_layers
    rule = f"must be {n_layers} lists, each of different ones of {', '.join(PARTS)} in this order"
    if not isinstance(listed, list) or len(cast("list[object]", listed)) != n_layers:
        raise fields.error("layer_parts", rule)
    layers: list[tuple[str, ...]] = []
    for layer in cast("list[object]", listed):
        parts: Sequence[object] = cast("list[object]", layer) if isinstance(layer, list) else []
        known = tuple(part for part in PARTS if part in parts)
        if not known or list(known) != parts:
            raise fields.error("layer_parts", rule)
        layers.append(known)
    return tuple(layers)


def _attention(fields: Fields, hidden: int) -> AttentionShape:
    n_heads = fields.integer("num_attention_heads", 1, 65536)
    n_kv_heads = fields.integer("num_key_value_heads", 1, n_heads, missing=n_heads, null=n_heads)
    if n_heads % n_kv_heads:
        raise fields.error("num_key_value_heads", f"must divide num_attention_heads = {n_heads}")
    head_dim = fields.integer("head_dim", 1, 65536, missing=max(1, hidden // n_heads))
    if head_dim % 2:
        raise fields.error("head_dim", f"= {head_dim} must be even for rotary embeddings", computed=True)
    window = Fields(fields.object("kv"), "kv.").integer("window_size", 1, _MAX_DIM)
    return AttentionShape(n_heads, n_kv_heads, head_dim, window)


def _ssm(fields: Fields, hidden: int) -> SSMShape:
    head_dim = fields.integer("ssm_head_dim", 1, 65536, missing=64)
    n_heads = fields.integer("ssm_num_heads", 1, 65536, missing=max(1, 2 * hidden // head_dim))
    n_groups = fields.integer("ssm_n_groups", 1, n_heads, missing=1)
    if n_heads % n_groups:
        raise fields.error("ssm_n_groups", f"must divide ssm_num_heads = {n_heads}")
    n_state = fields.integer("ssm_state_size", 1, 65536, missing=64)
    return SSMShape(n_heads, head_dim, n_state, n_groups, fields.integer("ssm_conv_kernel", 1, 1024, missing=4))


def _lava(fields: Fields, hidden: int) -> LavaShape:
    n_heads = fields.integer("lava_num_heads", 1, 65536, missing=4)
    key_dim = fields.integer("lava_key_dim", 1, _MAX_KEY, missing=64)
    n_lists = fields.integer("lava_clusters", 1, _MAX_LISTS, missing=256)
    n_probe = fields.integer("lava_cluster_top", 1, _MAX_LISTS, missing=min(16, n_lists))
    if n_probe > n_lists:
        raise fields.error("lava_cluster_top", f"must be at most lava_clusters = {n_lists}")
    contents = fields.config.get("lava_contents", LavaShape.contents)
    if contents not in CONTENTS:
        raise fields.error("lava_contents", f"is not supported; supported are {', '.join(CONTENTS)}")
    write_every = fields.integer("lava_write_every", 0, _MAX_DIM, missing=1)
    surprise = _at_least_zero(fields, "lava_write_on_surprise", 1e6, LavaShape.write_on_surprise)
    if write_every == 0 and surprise == 0.0:
        rule = "must be at least 1 where lava_write_on_surprise = 0: nothing would ever be written"
        raise fields.error("lava_write_every", rule)
    return LavaShape(
        n_heads=n_heads,
        key_dim=key_dim,
        value_dim=fields.integer("lava_value_dim", 1, _MAX_KEY, missing=key_dim),
        n_lists=n_lists,
        n_probe=n_probe,
        k=fields.integer("lava_top_k", 1, _MAX_READ, missing=32),
        capacity=fields.integer("lava_capacity", 64, _MAX_SLOTS, missing=LavaShape.capacity),
        contents=contents,
        tail=_boolean(fields, "lava_tail", missing=LavaShape.tail),
        half_life=fields.number("lava_half_life", 0.0, 1e18, missing=LavaShape.half_life),
        read_every=fields.integer("lava_read_every", 1, _MAX_DIM, missing=1),
        write_every=write_every,
        write_on_surprise=surprise,
    )


def _depth_gating(fields: Fields, n_layers: int) -> DepthGating | None:
    if fields.config.get("depth_gating") is None:
        return None
    gate = Fields(fields.object("depth_gating"), "depth_gating.")
    min_layers = gate.integer("min_layers", 1, n_layers)
    return DepthGating(
        min_layers=min_layers,
        max_layers=gate.integer("max_layers", min_layers, n_layers, missing=n_layers),
        entropy=gate.number("entropy", 0.0, 1e6),
        hysteresis=_at_least_zero(gate, "hysteresis", 1e6, DepthGating.hysteresis),
    )


def _at_least_zero(fields: Fields, key: str, high: float, missing: float) -> float:
    """A number from 0 on, with 0 for off."""
    return 0.0 if fields.config.get(key) == 0 else fields.number(key, 0.0, high, missing=missing)
