"""Multi-query associative recall: pairs of a key and a value, then keys again, whose values are asked for.

Source: arXiv:2312.04927, section 3 (HazyResearch/zoology): the distance of a question from the pairs follows a power
law with the exponent power - 1. Unlike there, what fills the rest is never a key of the row: a key that stood a second
time, before any id, would make the label of its question a guess.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["NO_LABEL", "recall_task"]

I64 = NDArray[np.int64]

NO_LABEL = -100
_POWER = 0.01


def recall_task(rng: np.random.Generator, batch: int, length: int, pairs: int, vocab: int) -> tuple[I64, I64]:
    """Ids and labels [batch, length]; the label of a question is its value, of all else `NO_LABEL`.

    Keys are ids below vocab / 2 and values those from there on; what is neither pair nor question is any id but the
    keys of its row.

    Raises:
        ValueError: the questions do not fit behind the pairs, or there are fewer keys than pairs.
    """
    half, places = vocab // 2, (length - 2 * pairs) // 2
    if places < pairs or half < pairs:
        raise ValueError(f"[recall_task] length {length} and vocab {vocab} must have room for {pairs} pairs, twice")
    shuffled = np.argsort(rng.random((batch, half)), axis=1)
    keys, values = shuffled[:, :pairs], rng.integers(half, vocab, (batch, pairs))
    ids = rng.integers(pairs, vocab, (batch, length))
    ids = np.where(ids < half, np.take_along_axis(shuffled, np.minimum(ids, half - 1), axis=1), ids)
    labels = np.full((batch, length), NO_LABEL, np.int64)
    ids[:, 0 : 2 * pairs : 2], ids[:, 1 : 2 * pairs : 2] = keys, values
    # The largest of log p + Gumbel noise: a draw without replacement, in random order.
    log_p = (_POWER - 1) * np.log(np.arange(1, places + 1))
    at = 2 * pairs + 2 * np.argsort(-(log_p + rng.gumbel(size=(batch, places))), axis=1)[:, :pairs]
    np.put_along_axis(ids, at, keys, axis=1)
    np.put_along_axis(labels, at, values, axis=1)
    return ids, labels
