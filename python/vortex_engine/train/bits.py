"""From nats per token to bits per byte of text."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vortex_engine.train.parallel import World
from vortex_engine.train.tokenizer import SPECIAL_TOKENS


def token_byte_lengths(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Bytes of text each token of a byte-level tokenizer stands for: [vocab_size] int64, 0 for special tokens."""
    lengths = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    for token, index in tokenizer.get_vocab().items():
        # The byte-level alphabet writes every byte as exactly one character.
        lengths[index] = 0 if token in SPECIAL_TOKENS else len(token)
    return lengths


def spread_windows(tokens: NDArray[np.unsignedinteger], *, n_windows: int, length: int) -> torch.Tensor:
    """Evenly spaced windows of a token stream: [n_windows, length + 1] int64."""
    if len(tokens) <= length:
        raise ValueError(f"[spread_windows] the text must have more than {length} tokens, got {len(tokens)}")
    starts = np.linspace(0, len(tokens) - length - 1, n_windows).astype(np.int64)
    return torch.from_numpy(np.stack([np.asarray(tokens[s : s + length + 1], dtype=np.int64) for s in starts]))


def window_bits_per_byte(
    mean_nats: Callable[[torch.Tensor], torch.Tensor],
    windows: torch.Tensor,
    byte_lengths: NDArray[np.int64],
    *,
    rows_at_once: int,
    world: World,
) -> float:
    """Bits per byte over whole windows [N, T + 1], every position scored with the context its window offers.

    Quick and a little pessimistic beside a sliding window: meant for following a run. The processes share the windows.

    Args:
        mean_nats: of the targets of some rows; processes call it equally often.
    """
    pieces = torch.split(windows, rows_at_once)
    n_rounds = math.ceil(len(pieces) / world.size)
    nats = 0.0
    for place in range(n_rounds):
        index = place * world.size + world.rank
        # A process without a piece of its own keeps the others company in what they exchange.
        rows = pieces[min(index, len(pieces) - 1)]
        found = float(mean_nats(rows.to(world.device))) * rows[:, 1:].numel()
        nats += found if index < len(pieces) else 0.0
    n_bytes = int(byte_lengths[windows[:, 1:].numpy()].sum())
    return world.sum([nats])[0] / math.log(2) / n_bytes
