"""A calibration text: what a model reads while packing looks at what rounding its weights does."""

from __future__ import annotations

import codecs
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vortex_engine.errors import MachineError, ModelConfigError
from vortex_engine.tok import Tokenizer

__all__ = ["CalibrationText", "read_calibration", "read_text"]

# More says nothing new, and a text of any length must not fill the memory.
_MAX_TEXT_BYTES = 4 << 20
# Logits of one window, float32; there are two of them at a time, of the checkpoint and of the packed model.
_LOGITS_BYTES = 32 << 20
_WINDOW_RANGE = (16, 256)

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """Token ids of a text, [n_tokens], and the most of them that are read in one go."""

    ids: Ids
    window_tokens: int

    def windows(self, n_tokens: int) -> list[Ids]:
        """Windows of the text, evenly spread over it, of about `n_tokens` together; all of a text that is shorter."""
        length = min(self.window_tokens, n_tokens)
        starts: Sequence[int] = range(0, len(self.ids), length)
        n_wanted = -(-n_tokens // length)
        if len(starts) > n_wanted:
            # The last window may be a short one; whole ones are at hand.
            starts = [int(at) * length for at in np.linspace(0, len(self.ids) // length - 1, n_wanted)]
        return [self.ids[start : start + length] for start in starts]


def read_calibration(
    path: str | os.PathLike[str], tokenizer: Tokenizer, *, vocab_size: int, context_length: int
) -> CalibrationText:
    """Read and tokenise a UTF-8 text, of which the first 4 MiB are used.

    Raises:
        ModelConfigError: there is no such file, it is not UTF-8, has no text, or ids that the model does not know.
        MachineError: it cannot be read.
    """
    ids = np.asarray(tokenizer.encode(read_text(Path(path))), np.int64)
    if not len(ids) or int(ids.max()) >= vocab_size:
        found = f"has token id {int(ids.max())}" if len(ids) else "has no tokens"
        raise ModelConfigError(
            f"[pack] the calibration text {path} {found}, the model knows ids below {vocab_size}; "
            "put the tokenizer.json of the model into its checkpoint"
        )
    low, high = _WINDOW_RANGE
    window_tokens = min(max(_LOGITS_BYTES // (4 * vocab_size), low), high, context_length)
    return CalibrationText(ids, window_tokens)


def read_text(path: Path) -> str:
    """The first 4 MiB of a UTF-8 file that has text in it; raises as `read_calibration`."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_TEXT_BYTES)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        reason = error.strerror or type(error).__name__
        raise ModelConfigError(f"[pack] the calibration text {path} cannot be opened: {reason}") from error
    except OSError as error:
        raise MachineError(f"[pack] cannot read the calibration text {path}: {error}") from error
    try:
        # A character that the limit cuts is left out.
        text = codecs.getincrementaldecoder("utf-8")().decode(data, final=len(data) < _MAX_TEXT_BYTES)
    except UnicodeDecodeError as error:
        raise ModelConfigError(
            f"[pack] the calibration text {path} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}"
        ) from error
    if not text.strip():
        raise ModelConfigError(
            f"[pack] the calibration text {path} is empty; give some pages of what the model will read"
        )
    return text
