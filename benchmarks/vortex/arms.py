"""The models that are compared: equal layers, width and parameters, another way to look back."""

from __future__ import annotations

from dataclasses import replace

from vortex_engine.layers import AttentionShape, LavaShape, SSMShape
from vortex_engine.models.vortex_config import VortexConfig

__all__ = ["ARMS", "MEMORY", "QUADRUPLE", "arm"]

MEMORY, QUADRUPLE = "SSM + LAVA", "SSM, 4x state"
_HIDDEN = 64
_SSM = SSMShape(n_heads=4, head_dim=32, n_state=16, n_groups=1, conv_width=4)
# Half the recurrence: the memory has the parameters of the other half.
_HALF = SSMShape(n_heads=2, head_dim=32, n_state=16, n_groups=1, conv_width=4)
_LAVA = LavaShape(n_heads=2, key_dim=32, value_dim=32, n_lists=64, n_probe=8, k=32, capacity=1 << 16)
_ATTENTION = AttentionShape(n_heads=4, n_kv_heads=4, head_dim=26, window=1 << 20)

ARMS: dict[str, VortexConfig] = {
    "SSM": VortexConfig(0, _HIDDEN, (("conv", "ssm"),) * 2, ssm=_SSM),
    QUADRUPLE: VortexConfig(0, _HIDDEN, (("conv", "ssm"),) * 2, ssm=replace(_SSM, n_state=64)),
    MEMORY: VortexConfig(0, _HIDDEN, (("conv", "ssm", "lava"),) * 2, ssm=_HALF, lava=_LAVA),
    "attention": VortexConfig(0, _HIDDEN, (("conv", "attention"),) * 2, attention=_ATTENTION),
}


def arm(name: str, vocab: int) -> VortexConfig:
    """The configuration of an arm."""
    return replace(ARMS[name], vocab_size=vocab)
