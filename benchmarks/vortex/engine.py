"""A trained model in the engine: saved, packed and loaded as a user would do it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import vortex_engine as vx

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from vortex_engine.train.vortex_model import TrainableVortex

__all__ = ["in_engine", "word_tokenizer"]


def in_engine(model: TrainableVortex, folder: Path, tokenizer: Tokenizer, threads: int) -> vx.Model:
    """The model with its weights as they are, fp32, packed into `folder`."""
    import torch

    from vortex_engine.train.vortex_export import save_vortex

    source, target = folder / "hf", folder / "model.c3"
    for old in (source, target):
        shutil.rmtree(old, ignore_errors=True)
    save_vortex(model, source, tokenizer, dtype=torch.float32)
    vx.pack(source, target, codec="exact")
    return vx.load(target, threads=threads)


def word_tokenizer(vocab: int) -> Tokenizer:
    """Words "0", "1" … for models whose ids stand for no text."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({str(i): i for i in range(vocab)}, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer
