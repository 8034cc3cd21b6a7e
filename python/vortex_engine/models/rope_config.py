"""Rope parameters from a `config.json`, in the spelling of transformers 4 (`rope_theta`, `rope_scaling`) or 5
(`rope_parameters`)."""

from __future__ import annotations

from typing import Any

from vortex_engine.models.fields import Fields
from vortex_engine.models.rope import RopeConfig

__all__ = ["parse_rope"]

_KINDS = ("default", "linear", "llama3")
_KNOWN = {
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "partial_rotary_factor",
}
_MAX_THETA = 1e30
_DEFAULT_THETA = 10_000.0


def parse_rope(fields: Fields, max_positions: int) -> RopeConfig:
    """Check the rope keys; both spellings at once are accepted only where they agree."""
    config = fields.config
    _whole_head(fields)
    scaling, parameters = _object(fields, "rope_scaling"), _object(fields, "rope_parameters")
    if scaling and parameters and scaling != parameters:
        raise fields.error("rope_scaling", "contradicts rope_parameters; keep one of them")
    name = "rope_parameters" if parameters else "rope_scaling"
    inner = Fields(parameters or scaling, f"{name}.")
    _whole_head(inner)

    kind = inner.config.get("rope_type", inner.config.get("type", "default"))
    if kind not in _KINDS or inner.config.get("type", kind) not in (kind, None):
        key = "rope_type" if "rope_type" in inner.config else "type"
        raise inner.error(key, f"is not supported; supported are {', '.join(_KINDS)}")
    for key, value in inner.config.items():
        if key not in _KNOWN and value is not None:
            raise inner.error(key, f"is not supported with rope type '{kind}'")

    theta = fields.number("rope_theta", 0.0, _MAX_THETA, missing=_DEFAULT_THETA)
    inner_theta = inner.number("rope_theta", 0.0, _MAX_THETA, missing=theta)
    if config.get("rope_theta") is not None and inner_theta != theta:
        raise fields.error("rope_theta", f"contradicts {name}.rope_theta = {inner_theta!r}")
    if kind == "default":
        if inner.config.get("factor") not in (None, 1):
            raise inner.error("factor", "has no meaning for rope type 'default'")
        return RopeConfig(inner_theta)
    factor = inner.number("factor", 0.0, 1e9)
    if kind == "linear":
        return RopeConfig(inner_theta, kind, factor)
    low = inner.number("low_freq_factor", 0.0, 1e9)
    high = inner.number("high_freq_factor", 0.0, 1e9)
    if high <= low:
        raise inner.error("high_freq_factor", f"must be above low_freq_factor = {low!r}")
    original = inner.integer("original_max_position_embeddings", 1, 2**31 - 1, missing=max_positions)
    # transformers lets the key beside the rope parameters win over the one among them.
    original = fields.integer("original_max_position_embeddings", 1, 2**31 - 1, missing=original, null=original)
    return RopeConfig(inner_theta, kind, factor, low, high, original)


def _object(fields: Fields, key: str) -> dict[str, Any]:
    value = fields.object(key)
    if any(isinstance(inner, dict) for inner in value.values()):
        raise fields.error(key, "is not supported: one set of rope parameters holds for all layers")
    return value


def _whole_head(fields: Fields) -> None:
    if fields.config.get("partial_rotary_factor") not in (None, 1):
        raise fields.error("partial_rotary_factor", "is not supported: the whole head is rotated")
