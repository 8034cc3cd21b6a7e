"""Local inference for models bigger than memory: pack a checkpoint, page it under a byte budget, generate exactly.

Importing this package loads neither numpy nor torch; `pack`, `load` and the result types arrive when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vortex_engine.errors import (
    BackendUnavailableError,
    BudgetError,
    CorruptTileError,
    MachineError,
    ModelConfigError,
    PromptError,
    TargetExistsError,
    TileFileError,
    TileVersionError,
    VortexError,
)

if TYPE_CHECKING:
    from vortex_engine.decode.model import Model, load
    from vortex_engine.decode.result import GenerationResult, Piece
    from vortex_engine.models.packing import pack

    __version__: str

__all__ = [
    "BackendUnavailableError",
    "BudgetError",
    "CorruptTileError",
    "GenerationResult",
    "MachineError",
    "Model",
    "ModelConfigError",
    "Piece",
    "PromptError",
    "TargetExistsError",
    "TileFileError",
    "TileVersionError",
    "VortexError",
    "__version__",
    "load",
    "pack",
]

_LAZY = {
    "GenerationResult": "vortex_engine.decode.result",
    "Model": "vortex_engine.decode.model",
    "Piece": "vortex_engine.decode.result",
    "load": "vortex_engine.decode.model",
    "pack": "vortex_engine.models.packing",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("vortex-engine")
    elif name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
