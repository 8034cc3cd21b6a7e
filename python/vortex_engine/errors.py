"""Every error a caller can meet.

VortexError
├── TileFileError            a packed model's file is not what was packed
│   ├── CorruptTileError     its bytes changed, are missing or contradict each other
│   └── TileVersionError     its format number is unknown to this version
├── ModelConfigError         a configuration, checkpoint, tokenizer, corpus or table that cannot be used
├── StateFileError           a saved state that is damaged, foreign or of another width
├── BudgetError              a byte budget below the minimum
├── BackendUnavailableError  a forced backend, SIMD level or extra that is not here
├── PromptError              an empty prompt or one longer than the context (also a ValueError)
├── DivergedError            a training run whose loss or gradient is no longer finite
├── TargetExistsError        a target that would be overwritten (also a FileExistsError)
└── MachineError             disk full, out of memory, unreadable disk (also an OSError)
"""

from __future__ import annotations

__all__ = [
    "BackendUnavailableError",
    "BudgetError",
    "CorruptTileError",
    "DivergedError",
    "MachineError",
    "ModelConfigError",
    "PromptError",
    "StateFileError",
    "TargetExistsError",
    "TileFileError",
    "TileVersionError",
    "VortexError",
]


class VortexError(Exception):
    """Base of every error this package raises on purpose."""


class TileFileError(VortexError):
    """A file of a packed model cannot be trusted.

    Attributes name the place where known: `file` (path), `tensor` (name), `tile` (number in its matrix) and `offset`
    (bytes from the start of the file).
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        tensor: str | None = None,
        tile: int | None = None,
        offset: int | None = None,
    ) -> None:
        super().__init__(message)
        self.file = file
        self.tensor = tensor
        self.tile = tile
        self.offset = offset


class CorruptTileError(TileFileError):
    """Bytes of a packed model changed, are missing or contradict each other."""


class TileVersionError(TileFileError):
    """The format number of a packed model is unknown to this version."""


class ModelConfigError(VortexError):
    """A configuration, checkpoint, tokenizer, corpus or table of n-grams that cannot be used; names it and the fix."""


class StateFileError(VortexError):
    """A file of a sequence's saved state that is damaged, foreign, or of another width; names it and the fix."""


class BudgetError(VortexError):
    """A byte budget below the minimum, which the message names."""


class BackendUnavailableError(VortexError):
    """A forced backend or SIMD level, or an optional extra, that is not available here."""


class PromptError(VortexError, ValueError):
    """A prompt that is empty or does not fit the context."""


class DivergedError(VortexError):
    """A training run whose loss or gradient is no longer finite; names the step and the first tensor that is not.

    `step` counts from 1, as in the log.
    """

    def __init__(self, message: str, *, step: int) -> None:
        super().__init__(message)
        self.step = step


class TargetExistsError(VortexError, FileExistsError):
    """A target that exists already; nothing is overwritten."""


class MachineError(VortexError, OSError):
    """The machine failed: disk full, out of memory or an unreadable disk."""
