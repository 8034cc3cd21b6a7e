"""What `int8` and `int4` tiles are multiplied with: a property of a model, or asked for; never the machine's choice."""

from __future__ import annotations

import numpy as np

from vortex_engine.c3.directory import C3Directory
from vortex_engine.c3.layout import ACTIVATIONS, CODEC_IDS, LOSSY_CODECS, MIXED

__all__ = ["check_activations", "chosen_activations"]

_INTEGER_IDS = [CODEC_IDS[name] for name in sorted(LOSSY_CODECS)]


def check_activations(activations: str, codec: str) -> None:
    """ValueError unless a model of this codec may record these activations."""
    if activations not in ACTIVATIONS:
        raise ValueError(f"[pack] activations must be one of {', '.join(ACTIVATIONS)}, got {activations!r}")
    if activations != "float" and codec not in {*LOSSY_CODECS, MIXED}:
        raise ValueError(
            f"[pack] activations={activations!r} needs codec int8, int4 or mixed, got codec {codec!r}: other tiles "
            "always take float activations"
        )


def chosen_activations(directory: C3Directory, asked: str | None) -> str:
    """What products of this model take: "float" or "int8"; what the model records where `asked` is None.

    Raises:
        ValueError: another name, or "int8" asked for a model without a tile of 8 or 4 bits, which it would not change.
    """
    if asked is None:
        return directory.activations
    if asked not in ACTIVATIONS:
        raise ValueError(f"activations must be one of {', '.join(ACTIVATIONS)} or None, got {asked!r}")
    if asked != "float" and not any(np.isin(m.tiles.codec, _INTEGER_IDS).any() for m in directory.matrices.values()):
        raise ValueError(
            f"activations={asked!r} is for int8 and int4 tiles, and {directory.path} (codec {directory.codec}) has "
            "none; leave it out, or pack with codec int8, int4 or mixed"
        )
    return asked
