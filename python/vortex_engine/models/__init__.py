"""Model architectures, found by the `model_type` of a configuration; their code is imported when asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vortex_engine.errors import ModelConfigError

if TYPE_CHECKING:
    from vortex_engine.c3.directory import C3Directory
    from vortex_engine.models.protocol import LanguageModel, ModelConfig
    from vortex_engine.ops import OpContext

__all__ = ["build_model", "parse_config", "supported_model_types"]

# Each module has `parse_config(config)` and `build(directory, pager, handles, ctx, activations)`.
_MODULES = {
    "llama": "vortex_engine.models.decoder",
    "mistral": "vortex_engine.models.decoder",
    "qwen2": "vortex_engine.models.decoder",
    "qwen3": "vortex_engine.models.decoder",
    "mamba": "vortex_engine.models.mamba",
    "mamba2": "vortex_engine.models.mamba",
    "vortex": "vortex_engine.models.vortex",
}


def supported_model_types() -> tuple[str, ...]:
    """Every `model_type` that the engine itself runs."""
    return tuple(_MODULES)


def parse_config(config: dict[str, Any]) -> ModelConfig:
    """The sizes of a model; refuses a `config.json` that this engine would not compute exactly as its authors did.

    Raises:
        ModelConfigError: names the key, its value and what is supported.
    """
    return _module(config).parse_config(config)


def build_model(
    directory: C3Directory, pager: Any, handles: dict[str, int], ctx: OpContext, activations: str
) -> LanguageModel:
    """The model of a packed directory, whose matrices the pager (not started yet) knows under `handles`.

    `activations` is what its products take, "float" or "int8".

    Raises:
        ModelConfigError: the configuration is not supported, or the tensors are not the ones it asks for.
    """
    return _module(directory.config).build(directory, pager, handles, ctx, activations)


def _module(config: dict[str, Any]) -> Any:
    model_type = config.get("model_type")
    name = _MODULES.get(model_type) if isinstance(model_type, str) else None
    if name is None:
        known = ", ".join(_MODULES)
        raise ModelConfigError(
            f"config.json: model_type = {model_type!r} is not supported; supported are {known}. Packed, it runs with "
            "transformers after: import vortex_engine.hf"
        )
    return import_module(name)
