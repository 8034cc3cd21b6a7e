"""The V-block and its variants, of as many parameters as something else: the gated MLP takes what a part leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vortex_engine.models.vortex_config import VortexConfig

__all__ = ["BLOCK", "EVERY_LAYER", "VARIANTS", "layers", "of_size"]

BLOCK = "V-block"
EVERY_LAYER = "V-block, LAVA in every layer"
# Parts of a layer; LAVA is in every second one.
VARIANTS: dict[str, tuple[str, ...]] = {
    BLOCK: ("conv", "ssm", "lava", "mlp"),
    EVERY_LAYER: ("conv", "ssm", "lava", "mlp"),
    "V-block + window attention": ("conv", "attention", "ssm", "lava", "mlp"),
    "V-block without conv": ("ssm", "lava", "mlp"),
    "V-block without SSM": ("conv", "lava", "mlp"),
    "V-block without LAVA": ("conv", "ssm", "mlp"),
    "V-block without MLP": ("conv", "ssm", "lava"),
}


def layers(name: str, n_layers: int) -> tuple[tuple[str, ...], ...]:
    """`layer_parts` of a variant."""
    parts = VARIANTS[name]
    without = parts if name == EVERY_LAYER else tuple(part for part in parts if part != "lava")
    return tuple(parts if index % 2 else without for index in range(n_layers))


def of_size(config: VortexConfig, n_parameters: int, count: Callable[[VortexConfig], int]) -> VortexConfig:
    """The configuration with the MLP that brings `count` nearest to so many parameters."""
    one, two = (count(replace(config, intermediate_size=inner)) for inner in (1, 2))
    return replace(config, intermediate_size=1 + round((n_parameters - one) / (two - one)))
