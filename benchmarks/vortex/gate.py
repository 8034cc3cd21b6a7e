"""What depth gating costs: bits per byte of a trained model whose sure rows leave out the MLPs of the last layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.vortex.text_runs import Texts, held_out_bits, load_weights

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["gated"]

_ENTROPIES = (0.25, 0.5, 1.0, 2.0)  # nats
_HYSTERESIS = 0.1


def gated(section: Mapping[str, Any], out: Path, texts: Texts, cache: Path) -> list[dict[str, Any]]:
    """Bits per byte and the share of MLPs left out, for several thresholds of entropy.

    Args:
        section: `model` of the run in `out`; rows may be sure after half of its layers.
    """
    from vortex_engine.models.vortex_config import DepthGating, parse_config
    from vortex_engine.train.vortex_model import TrainableVortex

    class Counted(TrainableVortex):
        n_rows = n_deep = 0

        def _deep(self, h: Tensor) -> Tensor:
            deep = super()._deep(h)
            self.n_rows += deep.numel()
            self.n_deep += int(deep.sum())
            return deep

    config = parse_config(dict(section))
    n_layers = config.num_hidden_layers
    found: list[dict[str, Any]] = []
    for entropy in _ENTROPIES:
        gate = DepthGating(n_layers // 2, n_layers, entropy, _HYSTERESIS)
        model = Counted(replace(config, depth_gating=gate))
        load_weights(model, out)
        bits = held_out_bits(model, texts, cache)
        shallow = 1.0 - model.n_deep / model.n_rows
        left_out = shallow * (n_layers - gate.min_layers) / n_layers
        found.append({"entropy": entropy, "mlps_left_out": left_out, **bits})
    return found
