"""From nats per token to bits per byte of text."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vortex_engine.train.model import TinyLlama
from vortex_engine.train.tokenizer import SPECIAL_TOKENS


def token_byte_lengths(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Bytes of text each token of a byte-level tokenizer stands for: [vocab_size] int64, 0 for special tokens."""
    lengths = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    for token, index in tokenizer.get_vocab().items():
        # The byte-level alphabet writes every byte as exactly one character.
        lengths[index] = 0 if token in SPECIAL_TOKENS else len(token)
    return lengths


def spread_windows(tokens: NDArray[np.uint16], *, n_windows: int, length: int) -> torch.Tensor:
    """Evenly spaced windows of a token stream: [n_windows, length + 1] int64."""
    starts = np.linspace(0, len(tokens) - length - 1, n_windows).astype(np.int64)
    return torch.from_numpy(np.stack([np.asarray(tokens[s : s + length + 1], dtype=np.int64) for s in starts]))


@torch.no_grad()
def window_bits_per_byte(model: TinyLlama, windows: torch.Tensor, byte_lengths: NDArray[np.int64]) -> float:
    """Bits per byte over whole windows [N, T + 1], every position scored with the context its window offers.

    Quick and a little pessimistic beside a sliding window: meant for following a run.
    """
    nats = 0.0
    for rows in torch.split(windows, 8):
        with torch.autocast("cpu", torch.bfloat16):
            nats += float(model.loss(rows[:, :-1], rows[:, 1:])) * rows[:, 1:].numel()
    n_bytes = int(byte_lengths[windows[:, 1:].numpy()].sum())
    return nats / math.log(2) / n_bytes
