"""A small Llama decoder whose parameter names and arithmetic are those of `transformers.LlamaForCausalLM`."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from vortex_engine.layers.differentiable import gated, normalise


@dataclass(frozen=True)
class LlamaSize:
    """Shape of the decoder; the output matrix is the embedding (tied). `mtp_k` is the number of multi-token heads."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    max_positions: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    mtp_k: int = 0


class RMSNorm(nn.Module):
    """Root-mean-square normalisation, y = x / sqrt(mean(x²) + eps) · weight, computed in float32.

    Source: arXiv 1910.07467, equation 4.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return normalise(x.float(), self.weight, self.eps).to(x.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, size: LlamaSize) -> None:
        super().__init__()
        self.size = size
        self.q_proj = nn.Linear(size.hidden_size, size.n_heads * size.head_dim, bias=False)
        self.k_proj = nn.Linear(size.hidden_size, size.n_kv_heads * size.head_dim, bias=False)
        self.v_proj = nn.Linear(size.hidden_size, size.n_kv_heads * size.head_dim, bias=False)
        self.o_proj = nn.Linear(size.n_heads * size.head_dim, size.hidden_size, bias=False)

    def forward(self, x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        rows, length, _ = x.shape
        size = self.size
        q = self.q_proj(x).view(rows, length, size.n_heads, size.head_dim).transpose(1, 2)  # [B, H, T, Dh]
        k = self.k_proj(x).view(rows, length, size.n_kv_heads, size.head_dim).transpose(1, 2)  # [B, Hkv, T, Dh]
        v = self.v_proj(x).view(rows, length, size.n_kv_heads, size.head_dim).transpose(1, 2)
        q, k = rotate_half(q, rope), rotate_half(k, rope)
        groups = size.n_heads // size.n_kv_heads
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(rows, length, size.n_heads * size.head_dim))


class GatedMlp(nn.Module):
    """down(silu(gate(x)) · up(x)). Source: arXiv 2002.05202, equation 6 (SwiGLU)."""

    def __init__(self, size: LlamaSize) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size.hidden_size, size.intermediate_size, bias=False)
        self.up_proj = nn.Linear(size.hidden_size, size.intermediate_size, bias=False)
        self.down_proj = nn.Linear(size.intermediate_size, size.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(gated(self.gate_proj(x), self.up_proj(x)))


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, size: LlamaSize) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(size.hidden_size, size.norm_eps)
        self.self_attn = Attention(size)
        self.post_attention_layernorm = RMSNorm(size.hidden_size, size.norm_eps)
        self.mlp = GatedMlp(size)

    def forward(self, x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rope)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, size: LlamaSize) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(size.vocab_size, size.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(size) for _ in range(size.n_layers))
        self.norm = RMSNorm(size.hidden_size, size.norm_eps)


class TinyLlama(nn.Module):
    """Llama for training on one machine: whole sequences, no cache, tied embedding."""

    def __init__(self, size: LlamaSize) -> None:
        super().__init__()
        if size.n_heads % size.n_kv_heads != 0:
            raise ValueError(f"[TinyLlama] n_kv_heads must divide n_heads {size.n_heads}, got {size.n_kv_heads}")
        self.size = size
        self.model = Decoder(size)
        self.mtp = nn.ModuleList(nn.Linear(size.hidden_size, size.hidden_size, bias=False) for _ in range(size.mtp_k))
        cos, sin = rope_table(size)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)
        self.rope_cos: torch.Tensor
        self.rope_sin: torch.Tensor
        self._initialise()

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """Final normalised states [B, T, D] of token ids [B, T] int64."""
        length = ids.shape[1]
        rope = (self.rope_cos[:length], self.rope_sin[:length])
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, rope)
        return self.model.norm(x)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, V] of token ids [B, T] int64."""
        return F.linear(self.hidden(ids), self.output)

    @property
    def output(self) -> torch.Tensor:
        """The matrix of the logits, [V, D]."""
        return self.model.embed_tokens.weight

    def _initialise(self) -> None:
        nn.init.normal_(self.model.embed_tokens.weight, std=0.02)
        for name, weight in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                # Every layer starts as the identity, so depth costs no stability at the first steps.
                nn.init.zeros_(weight)
            elif name.endswith("_proj.weight"):
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
            elif name.startswith("mtp."):
                nn.init.zeros_(weight)  # every head begins as the model itself


def rope_table(size: LlamaSize) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [max_positions, head_dim] float32 of the rotary angles, halves repeated."""
    exponents = torch.arange(0, size.head_dim, 2, dtype=torch.float32) / size.head_dim
    angles = torch.outer(torch.arange(size.max_positions, dtype=torch.float32), size.rope_theta**-exponents)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate_half(x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotate x [B, H, T, Dh] by its positions: x·cos + (-x₂, x₁)·sin with x₁, x₂ the halves of the head.

    Source: arXiv 2104.09864, equation 34, in the Hugging Face layout (first half pairs with second half).
    """
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x * cos.to(x.dtype) + turned * sin.to(x.dtype)).to(x.dtype)
