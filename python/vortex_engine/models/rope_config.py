"""Rope parameters from a `config.json`, in the spelling of transformers 4 (`rope_theta`, `rope_scaling`) or 5
(`rope_parameters`)."""

from __future__ import annotations

import math
from typing import Any

from vortex_engine.models.fields import Fields
from vortex_engine.models.rope import RopeConfig

__all__ = ["parse_rope"]

_KINDS = ("default", "linear", "llama3", "yarn")
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
_YARN = {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"}
_MAX_THETA = 1e30
_MAX_FACTOR = 1e9
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
        if key not in (_KNOWN | _YARN if kind == "yarn" else _KNOWN) and value is not None:
            raise inner.error(key, f"is not supported with rope type '{kind}'")

    theta = fields.number("rope_theta", 0.0, _MAX_THETA, missing=_DEFAULT_THETA)
    inner_theta = inner.number("rope_theta", 0.0, _MAX_THETA, missing=theta)
    if config.get("rope_theta") is not None and inner_theta != theta:
        raise fields.error("rope_theta", f"contradicts {name}.rope_theta = {inner_theta!r}")
    if kind == "default":
        if inner.config.get("factor") not in (None, 1):
            raise inner.error("factor", "has no meaning for rope type 'default'")
        return RopeConfig(inner_theta)
    if kind == "linear":
        return RopeConfig(inner_theta, kind, inner.number("factor", 0.0, _MAX_FACTOR))
    original = inner.integer("original_max_position_embeddings", 1, 2**31 - 1, missing=max_positions)
    # transformers lets the key beside the rope parameters win over the one among them.
    original = fields.integer("original_max_position_embeddings", 1, 2**31 - 1, missing=original, null=original)
    if kind == "yarn":
        return _yarn(inner, inner_theta, original, max_positions)
    factor = inner.number("factor", 0.0, _MAX_FACTOR)
    low = inner.number("low_freq_factor", 0.0, _MAX_FACTOR)
    high = inner.number("high_freq_factor", 0.0, _MAX_FACTOR)
    if high <= low:
        raise inner.error("high_freq_factor", f"must be above low_freq_factor = {low!r}")
    return RopeConfig(inner_theta, kind, factor, low, high, original)


def _yarn(inner: Fields, theta: float, original: int, max_positions: int) -> RopeConfig:
    if theta <= 1.0:
        raise inner.error("rope_theta", f"= {theta!r} must be above 1 with rope type 'yarn'", computed=True)
    # transformers takes a factor of null, not an absent one, for the ratio of the two lengths.
    implied = max_positions / original if "factor" in inner.config else None
    factor = inner.number("factor", 0.0, _MAX_FACTOR, missing=implied)
    beta_fast, beta_slow = _nonzero(inner, "beta_fast") or 32.0, _nonzero(inner, "beta_slow") or 1.0
    if beta_fast < beta_slow:
        raise inner.error("beta_fast", f"= {beta_fast!r} must not be below beta_slow = {beta_slow!r}", computed=True)
    scale, scale_all = _nonzero(inner, "mscale"), _nonzero(inner, "mscale_all_dim")
    if scale is not None and scale_all is not None:
        implied = _magnitude(factor, scale) / _magnitude(factor, scale_all)
    else:
        implied = _magnitude(factor, 1.0)
    return RopeConfig(
        theta,
        "yarn",
        factor,
        original_max_position_embeddings=original,
        beta_fast=beta_fast,
        beta_slow=beta_slow,
        truncate="truncate" not in inner.config or inner.boolean("truncate"),
        attention_factor=inner.number("attention_factor", 0.0, _MAX_FACTOR, missing=implied),
    )


def _nonzero(inner: Fields, key: str) -> float | None:
    """A positive number; None where the key is absent, null or 0, which transformers takes for absent."""
    value = inner.config.get(key)
    absent = value is None or (value == 0 and not isinstance(value, bool))
    return None if absent else inner.number(key, 0.0, _MAX_FACTOR)


def _magnitude(factor: float, scale: float) -> float:
    """What keeps the attention as sharp as it was (arXiv 2309.00071, section 3.4)."""
    return 1.0 if factor <= 1.0 else 0.1 * scale * math.log(factor) + 1.0


def _object(fields: Fields, key: str) -> dict[str, Any]:
    value = fields.object(key)
    if any(isinstance(inner, dict) for inner in value.values()):
        raise fields.error(key, "is not supported: one set of rope parameters holds for all layers")
    return value


def _whole_head(fields: Fields) -> None:
    if fields.config.get("partial_rotary_factor") not in (None, 1):
        raise fields.error("partial_rotary_factor", "is not supported: the whole head is rotated")
