"""Training steps of a V-block model beside plain PyTorch llamas of equal size: tokens a second."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.c3.report import Figure, MissingPeerError
from benchmarks.c3.setting import Setting
from benchmarks.machine import interleaved_timings, print_table
from benchmarks.vortex.blocks import BLOCK, EVERY_LAYER, VARIANTS, layers, of_size
from vortex_engine.layers import AttentionShape, LavaShape, SSMShape
from vortex_engine.models.vortex_config import VortexConfig, config_json

if TYPE_CHECKING:
    from torch import Tensor, nn

_VOCAB, _HIDDEN, _LAYERS, _INNER, _HEADS = 2048, 256, 4, 704, 4
_LENGTHS = {512: 4, 2048: 1}  # positions of a sequence, and sequences of a step
_TURNS, _BURST = 4, 3
_TARGET = 0.8
_PLAIN = "transformers llama, SDPA"
_TINY = "llama of `vortex train`"
_SSM = SSMShape(n_heads=4, head_dim=64, n_state=64, n_groups=1, conv_width=4)
_LAVA = LavaShape(n_heads=4, key_dim=64, value_dim=64, n_lists=256, n_probe=16, k=32)
_SHOWN = (BLOCK, EVERY_LAYER, "V-block + window attention", "V-block without LAVA", "V-block without SSM")


def measure(setting: Setting) -> Figure:
    """Time whole steps (forward, backward, clipping, AdamW) of every model on the same tokens, in turns."""
    try:
        import torch
    except ImportError as error:
        raise MissingPeerError("torch is not installed: pip install 'vortex-engine[train]'") from error
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    figure = Figure()
    figure.facts = {"threads": setting.threads, "hidden_size": _HIDDEN, "layers": _LAYERS, "vocab": _VOCAB}
    models = _models(figure)
    for length, rows in ({64: 2} if setting.quick else _LENGTHS).items():
        ids = torch.randint(0, _VOCAB, (rows, length + 1))
        steps = {name: _step(model, ids) for name, model in models.items()}
        taken = interleaved_timings(steps, repeats=setting.rounds(_TURNS), burst=_BURST)
        speeds = {name: rows * length / seconds["median"] for name, seconds in taken.items()}
        reference = speeds.get(_PLAIN, speeds[_TINY])
        for name, speed in speeds.items():
            size = sum(parameter.numel() for parameter in models[name].parameters())
            entry: dict[str, Any] = {"contender": name, "parameters": size, "length": length, "sequences": rows}
            figure.entries.append(
                entry | {"tokens_per_s": speed, "times_llama": speed / reference, "seconds": taken[name]}
            )
        if _PLAIN in speeds:
            figure.claim(
                f"training, sequences of {length}: tokens a second over those of a llama of equal size",
                speeds[BLOCK] / speeds[_PLAIN],
                ">=",
                _TARGET,
                peer=_PLAIN,
                detail=f"{speeds[BLOCK]:.0f} and {speeds[_PLAIN]:.0f} tokens a second",
            )
    columns = ("contender", "parameters", "length", "tokens_per_s", "times_llama")
    print_table(columns, [[entry[column] for column in columns] for entry in figure.entries])
    return figure


def _models(figure: Figure) -> dict[str, nn.Module]:
    """The models, of equal parameters: the MLP of a V-block takes what its other parts leave."""
    from vortex_engine.train.registry import build_trainable

    llama: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": _HIDDEN,
        "intermediate_size": _INNER,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "max_position_embeddings": max(_LENGTHS),
    }
    models: dict[str, nn.Module] = {_TINY: build_trainable(llama, _VOCAB).module}
    target = _size(models[_TINY])
    for name in _SHOWN:
        parts = VARIANTS[name]
        config = VortexConfig(
            vocab_size=_VOCAB,
            hidden_size=_HIDDEN,
            layer_parts=layers(name, _LAYERS),
            attention=AttentionShape(_HEADS, 1, 64, window=128) if "attention" in parts else None,
            ssm=_SSM if "ssm" in parts else None,
            lava=_LAVA if "lava" in parts else None,
        )

        def build(chosen: VortexConfig) -> nn.Module:
            return build_trainable(config_json(chosen), _VOCAB).module

        models[name] = build(of_size(config, target, lambda chosen: _size(build(chosen))))
    try:
        models[_PLAIN] = _transformers(llama)
    except MissingPeerError as error:
        figure.skip(error)
    return models


def _transformers(section: Mapping[str, Any]) -> nn.Module:
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise MissingPeerError("transformers: pip install 'vortex-engine[peers]'") from error
    shape = {name: value for name, value in section.items() if name != "model_type"}
    config = transformers.LlamaConfig(vocab_size=_VOCAB, tie_word_embeddings=True, **shape)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _step(model: nn.Module, ids: Tensor) -> Callable[[], None]:
    """One step on these tokens, the same for every model."""
    import torch

    from vortex_engine.train.model import TinyLlama
    from vortex_engine.train.vortex_model import TrainableVortex

    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    model.train()

    def step() -> None:
        found = model(ids[:, :-1])
        logits = found if isinstance(model, TrainableVortex | TinyLlama) else found.logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step
