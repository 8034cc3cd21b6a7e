"""The kinds of models that the loop trains: one builder for each `model_type`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn

from vortex_engine.errors import ModelConfigError
from vortex_engine.models.config import MAX_MTP_K
from vortex_engine.models.vortex_config import config_json, parse_config
from vortex_engine.train.config import Section, check_section, suggestion
from vortex_engine.train.export import hugging_face_config
from vortex_engine.train.model import LlamaSize, TinyLlama
from vortex_engine.train.vortex_model import TrainableVortex

__all__ = ["BUILDERS", "TrainableModel", "build_trainable"]

Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, eq=False)
class TrainableModel:
    """What the loop needs to know of a model.

    Attributes:
        module: a `LanguageModel`; the names of its state are those of the checkpoint's tensors.
        config: `config.json` of the saved model.
        blocks: the layers, in order, each with a `forward`: what FSDP gathers and `recompute` forgets at once.
        max_positions: longest sequence, None where there is no such thing.
    """

    module: nn.Module
    config: Mapping[str, object]
    blocks: tuple[nn.Module, ...]
    max_positions: int | None = None


class _LlamaSection(Section):
    """Keys of a llama's config.json; the output matrix is the embedding (tied)."""

    model_type: Literal["llama"]
    hidden_size: Positive
    intermediate_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive | None = None
    head_dim: Annotated[int, Field(ge=2, multiple_of=2)] | None = None
    max_position_embeddings: Positive = 2048
    rope_theta: Annotated[float, Field(gt=0.0)] = 10_000.0
    rms_norm_eps: Annotated[float, Field(gt=0.0)] = 1e-5
    vocab_size: Positive | None = None
    mtp_k: Annotated[int, Field(ge=0, le=MAX_MTP_K)] = 0


def _build_llama(section: Mapping[str, Any], vocab_size: int) -> TrainableModel:
    given = check_section(_LlamaSection, section, "model")
    n_heads, n_kv_heads = given.num_attention_heads, given.num_key_value_heads or given.num_attention_heads
    if given.head_dim is None and given.hidden_size % (2 * n_heads):
        raise ModelConfigError(
            f"[train] model.hidden_size must be an even multiple of num_attention_heads = {n_heads} without head_dim, "
            f"got {given.hidden_size}"
        )
    if n_heads % n_kv_heads:
        raise ModelConfigError(f"[train] model.num_key_value_heads must divide {n_heads} heads, got {n_kv_heads}")
    size = LlamaSize(
        vocab_size=checked_vocab(given.vocab_size, vocab_size),
        hidden_size=given.hidden_size,
        intermediate_size=given.intermediate_size,
        n_layers=given.num_hidden_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=given.head_dim or given.hidden_size // n_heads,
        max_positions=given.max_position_embeddings,
        rope_theta=given.rope_theta,
        norm_eps=given.rms_norm_eps,
        mtp_k=given.mtp_k,
    )
    module = TinyLlama(size)
    return TrainableModel(module, hugging_face_config(size), tuple(module.model.layers), size.max_positions)


def _build_vortex(section: Mapping[str, Any], vocab_size: int) -> TrainableModel:
    config = parse_config({"vocab_size": vocab_size, **section})
    checked_vocab(config.vocab_size, vocab_size)
    document = config_json(config)
    unknown = sorted(section.keys() - document.keys())
    if unknown:
        raise ModelConfigError(
            f"[train] model.{unknown[0]} is no setting of a vortex with these parts; "
            + suggestion(unknown[0], sorted(document))
        )
    module = TrainableVortex(config)
    return TrainableModel(module, document, tuple(module.model.layers), config.max_position_embeddings)


# A new kind of model is a builder and one line here.
BUILDERS: dict[str, Callable[[Mapping[str, Any], int], TrainableModel]] = {
    "llama": _build_llama,
    "vortex": _build_vortex,
}


def build_trainable(section: Mapping[str, Any], vocab_size: int) -> TrainableModel:
    """The model of a configuration's `model` section, initialised from torch's generator.

    Raises:
        ModelConfigError: an unknown `model_type`, or a section that its builder refuses.
    """
    model_type = section.get("model_type")
    if not isinstance(model_type, str) or model_type not in BUILDERS:
        raise ModelConfigError(
            f"[train] model.model_type {model_type!r} cannot be trained; {suggestion(str(model_type), list(BUILDERS))}"
        )
    return BUILDERS[model_type](section, vocab_size)


def checked_vocab(asked: int | None, needed: int) -> int:
    """Size of the vocabulary: that of the tokenizer, or a larger one that the configuration asks for."""
    if asked is not None and asked < needed:
        raise ModelConfigError(f"[train] model.vocab_size must hold the tokenizer's {needed} tokens, got {asked}")
    return asked or needed
