"""The tokens of a run: what is read, and what is held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vortex_engine.errors import ModelConfigError
from vortex_engine.train.bits import spread_windows
from vortex_engine.train.codec import TextCodec, open_codec
from vortex_engine.train.config import TrainConfig
from vortex_engine.train.corpus import tokenise
from vortex_engine.train.parallel import World

__all__ = ["TrainData", "prepare_data"]


@dataclass(frozen=True, eq=False)
class TrainData:
    """Tokens of a run.

    Attributes:
        ids: [n_tokens] uint16 or uint32; fingerprint: of them.
        windows: [n, seq_len + 1] int64 of held-out text, None where there is none.
    """

    codec: TextCodec
    ids: NDArray[np.unsignedinteger]
    fingerprint: str
    windows: torch.Tensor | None


def prepare_data(config: TrainConfig, world: World, note: Callable[[str], None]) -> TrainData:
    """Tokenise what is not yet tokenised: the first process does it, then the others read.

    Raises:
        ModelConfigError: text or tokenizer that cannot be used, or too little text.
    """
    codec = open_codec(config.data.tokenizer, config.data.end_of_text)
    cache = config.data.cache or config.out / "data"
    if not world.leads:
        world.wait()
    text = tokenise(config.data.train, codec, cache, lambda name: note(f"tokenising {name}"))
    held_out = tokenise(config.data.valid, codec, cache) if config.data.valid else None
    if world.leads:
        world.wait()
    note(f"{len(text.ids):,} tokens of {text.n_documents:,} documents, {text.text_bytes:,} bytes")
    if len(text.ids) <= config.loop.batch_tokens:
        raise ModelConfigError(
            f"[train] data.train must have more than one step of {config.loop.batch_tokens} tokens, got "
            f"{len(text.ids)}; add text or lower loop.batch_tokens"
        )
    windows = None
    if held_out is not None:
        length = config.data.seq_len
        if len(held_out.ids) <= length:
            raise ModelConfigError(
                f"[train] data.valid must have more than {length} tokens, got {len(held_out.ids)}; add text"
            )
        windows = spread_windows(held_out.ids, n_windows=config.loop.eval_windows, length=length)
    return TrainData(codec, text.ids, text.fingerprint, windows)
