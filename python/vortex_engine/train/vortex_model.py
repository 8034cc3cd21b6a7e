"""VORTEX with parameters of its own, for training; configuration and tensor names are those of the packed one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vortex_engine.layers.differentiable import gated
from vortex_engine.layers.trainable_lava import TrainableLava
from vortex_engine.layers.trainable_mixer import TrainableMixer
from vortex_engine.layers.trainable_ssm import TrainableSSM
from vortex_engine.models.vortex_config import VortexConfig
from vortex_engine.state import LavaState
from vortex_engine.train.model import RMSNorm

__all__ = ["TrainableVortex"]


class _Mlp(nn.Module):
    """down(silu(gate(x)) * up(x)); source: arXiv 2002.05202, equation 6."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(gated(self.gate_proj(x), self.up_proj(x)))


class _Layer(nn.Module):
    """The parts that a configuration gives one layer, each behind a norm and added to the residual stream."""

    def __init__(self, config: VortexConfig, parts: tuple[str, ...], lava_scale: float | None) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.local = self.ssm = self.lava = self.mlp = None
        if "conv" in parts or "attention" in parts:
            self.local_norm = RMSNorm(hidden, eps)
            width = config.conv_kernel if "conv" in parts else None
            attention = config.attention if "attention" in parts else None
            self.local = TrainableMixer(hidden, width, attention, config.rope_theta)
        if "ssm" in parts:
            assert config.ssm is not None
            self.ssm_norm = RMSNorm(hidden, eps)
            self.ssm = TrainableSSM(hidden, config.ssm, norm_eps=eps)
        if "lava" in parts:
            assert config.lava is not None
            self.lava_norm = RMSNorm(hidden, eps)
            self.lava = TrainableLava(hidden, config.lava, lava_scale)
        if "mlp" in parts:
            self.mlp_norm = RMSNorm(hidden, eps)
            self.mlp = _Mlp(hidden, config.intermediate_size)

    def forward(self, h: Tensor, written: Tensor | None) -> Tensor:
        """The layer where nothing gates its depth."""
        return self.feed(self.mix(h, written))

    def mix(self, h: Tensor, written: Tensor | None) -> Tensor:
        """All parts that see other positions."""
        if self.local is not None:
            h = h + self.local(self.local_norm(h))
        if self.ssm is not None:
            h = h + self.ssm(self.ssm_norm(h))
        if self.lava is not None:
            h = h + self.lava(self.lava_norm(h), written)
        return h

    def feed(self, h: Tensor, chosen: Tensor | None = None) -> Tensor:
        """The MLP; of the `chosen` rows [B, L] alone where they are given."""
        if self.mlp is None:
            return h
        y = self.mlp(self.mlp_norm(h))
        return h + (y if chosen is None else y * chosen[..., None])


class _Trunk(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, config: VortexConfig, lava_scale: float | None) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config, parts, lava_scale) for parts in config.layer_parts)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class TrainableVortex(nn.Module):
    """VORTEX for training on whole sequences, as `train/objective.py` asks of a model.

    Every part begins as zero on the residual stream, so depth costs no stability at the first steps.

    Args:
        lava_scale: `scale` of every `TrainableLava`.
    """

    def __init__(self, config: VortexConfig, *, lava_scale: float | None = None) -> None:
        super().__init__()
        self.config = config
        self.model = _Trunk(config, lava_scale)
        self.lm_head = (
            None if config.tie_word_embeddings else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        self.mtp = nn.ModuleList(
            nn.Linear(config.hidden_size, config.hidden_size, bias=False) for _ in range(config.mtp_k)
        )
        self._initialise()

    @property
    def output(self) -> Tensor:
        """The matrix of the logits, [vocab, hidden]."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def hidden(self, ids: Tensor, written: Tensor | None = None) -> Tensor:
        """Final normalised states [B, L, hidden] of token ids [B, L] int64.

        Args:
            written: which positions the memories take, [B, L] bool; by default `written(ids)`.
        """
        # Depth follows certainty once there is some: in training all rows are deep.
        gating, deep = None if self.training else self.config.depth_gating, None
        written = self.written(ids) if written is None else written
        h = self.model.embed_tokens(ids)
        for index, layer in enumerate(self.model.layers):
            assert isinstance(layer, _Layer)
            if gating is None:
                h = layer(h, written)
                continue
            if index == gating.min_layers:
                deep = self._deep(h)
            h = layer.mix(h, written)
            if index < gating.min_layers:
                h = layer.feed(h)
            elif index < gating.max_layers:
                h = layer.feed(h, deep)
        return self.model.norm(h)

    def forward(self, ids: Tensor, written: Tensor | None = None) -> Tensor:
        """Logits [B, L, vocab] of token ids [B, L] int64."""
        return F.linear(self.hidden(ids, written), self.output)

    def written(self, ids: Tensor) -> Tensor | None:
        """Which positions of ids [B, L] the memories take, [B, L] bool; None for all.

        Those that are written for their surprise depend on what was written windows before. In training the surprises
        are those of one pass with what is written for its place alone; in evaluation passes are repeated until they
        agree, which gives what the packed model does.
        """
        lava = self.config.lava
        if lava is None or (lava.write_every == 1 and not lava.write_on_surprise):
            return None
        positions = torch.arange(ids.shape[1], device=ids.device)
        placed = (
            positions % lava.write_every == 0 if lava.write_every else torch.zeros_like(positions, dtype=torch.bool)
        )
        written = placed.expand(ids.shape)
        if lava.write_on_surprise:
            # Each pass settles two windows more.
            n_passes = 1 if self.training else -(-ids.shape[1] // (2 * LavaState.WINDOW))
            for _ in range(n_passes):
                before, written = written, placed | self._surprising(ids, written)
                if torch.equal(before, written):
                    break
        return written

    @torch.no_grad()
    def _surprising(self, ids: Tensor, written: Tensor) -> Tensor:
        assert self.config.lava is not None
        logits = self(ids[:, :-1], written[:, :-1]).float()
        nats = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(ids), -1)
        return F.pad(nats, (1, 0)) > self.config.lava.write_on_surprise

    @torch.no_grad()
    def _deep(self, h: Tensor) -> Tensor:
        """Which rows [B, L] take the MLPs after the first layers: `GateState.decide`."""
        gating = self.config.depth_gating
        assert gating is not None
        log_p = F.linear(self.model.norm(h), self.output).float().log_softmax(-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        shallow = torch.zeros(len(h), dtype=torch.bool, device=h.device)
        deep = torch.empty(h.shape[:2], dtype=torch.bool, device=h.device)
        for t in range(h.shape[1]):
            sure, unsure = entropy[:, t] <= gating.entropy, entropy[:, t] > gating.entropy + gating.hysteresis
            shallow = sure | (shallow & ~unsure)
            deep[:, t] = ~shallow
        return deep

    def _initialise(self) -> None:
        nn.init.normal_(self.model.embed_tokens.weight, std=0.02)
        for name, weight in self.named_parameters():
            if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight")) or name.startswith("mtp."):
                nn.init.zeros_(weight)
            elif name.endswith(("_proj.weight", "lm_head.weight")):
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
