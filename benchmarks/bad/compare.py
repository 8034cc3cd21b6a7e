"""Speculation held against plain decoding: the same prompt by every drafter, block size, thread count and budget, with
the tokens and the bits of the logits that chose them compared. Plain decoding on one thread with all weights in RAM is
the truth; plain decoding in the other settings is held against it too.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vortex_engine as vx
from vortex_engine.decode.options import split_arguments
from vortex_engine.errors import BudgetError

LAWS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.8, "top_p": 0.95, "seed": 11},
    {"presence_penalty": 0.3, "frequency_penalty": 0.2, "no_repeat_ngram": 4},
    {"temperature": 1.2, "top_k": 40, "min_p": 0.01, "repetition_penalty": 1.2, "penalty_window": 24, "seed": 12},
)
Setting = tuple[int, float, str]  # threads, share of the weights' bytes, policy
SETTINGS: tuple[Setting, ...] = ((1, 1.0, "stable"), (2, 1.0, "stable"), (1, 0.3, "lru"), (2, 0.3, "stable"))


@dataclass(frozen=True)
class Case:
    """One generation; `law` counts in LAWS, a block size of 0 is left to the engine."""

    drafter: str
    block_size: int
    setting: Setting
    law: int


@dataclass(frozen=True)
class Text:
    """Chosen ids [n] and the logits rows [n, vocab] that chose them; drafts and how many were accepted."""

    token_ids: tuple[int, ...]
    logits: NDArray[np.float32]
    n_drafted: int
    n_accepted: int


def cases(index: int, plans: Sequence[tuple[str, int]], *, every: bool) -> Iterator[Case]:
    """What prompt `index` is run through: each (drafter, block size) in every setting, greedily and under another law,
    or in one setting under one law, which change from prompt to prompt and case to case.
    """
    for row, (drafter, block_size) in enumerate(plans):
        turn = index + row
        if every:
            laws = (0, 1 + turn % (len(LAWS) - 1))
            yield from (Case(drafter, block_size, setting, law) for setting in SETTINGS for law in laws)
        else:
            law = (turn // len(SETTINGS) + row) % len(LAWS)
            yield Case(drafter, block_size, SETTINGS[turn % len(SETTINGS)], law)


@contextlib.contextmanager
def loaded_models(path: Path, draft: Path) -> Generator[dict[Setting, vx.Model]]:
    """The model in every setting. The model that drafts has its weights in RAM, besides the share."""
    with contextlib.ExitStack() as stack:
        with vx.load(path) as whole, vx.load(draft) as second:
            totals = [int(model.stats["total_bytes"]) for model in (whole, second)]
        yield {setting: stack.enter_context(_load(path, draft, totals[0], totals[1], setting)) for setting in SETTINGS}


def _load(path: Path, draft: Path, total: int, besides: int, setting: Setting) -> vx.Model:
    threads, share, policy = setting
    while True:
        try:
            budget = int(share * total) + besides
            return vx.load(path, ram_budget=budget, threads=threads, policy=policy, draft_model=draft)
        except BudgetError:
            if share >= 1:
                raise
            share += 0.05  # of a small model, a budget must hold a larger share


def generate(model: vx.Model, prompt: Sequence[int], n_tokens: int, **arguments: Any) -> Text:
    """`n_tokens` tokens after the prompt, an EOS being a token as any, with all that chose them."""
    params, options = split_arguments(arguments)  # pyright: ignore[reportArgumentType]
    generation = model._generation(prompt, params, options, n_tokens)  # pyright: ignore[reportPrivateUsage]
    token_ids: list[int] = []
    rows: list[NDArray[np.float32]] = []
    for block in generation.blocks():
        token_ids.extend(block.token_ids)
        rows.append(block.logits.copy())
        if len(token_ids) >= n_tokens:
            break
    counts = generation.planner.counts.values()
    drafted, accepted = sum(count.drafted for count in counts), sum(count.accepted for count in counts)
    return Text(tuple(token_ids[:n_tokens]), np.concatenate(rows)[:n_tokens], drafted, accepted)


def different_bits(expected: NDArray[np.float32], found: NDArray[np.float32]) -> int:
    """Bits that differ; a missing row differs in all of its bits."""
    n_rows = min(len(expected), len(found))
    different = expected[:n_rows].view(np.uint32) ^ found[:n_rows].view(np.uint32)
    n_missing = (max(len(expected), len(found)) - n_rows) * expected.shape[1] * 32
    return int(np.unpackbits(different.view(np.uint8)).sum()) + n_missing if different.any() else n_missing


def compare_prompt(
    models: dict[Setting, vx.Model],
    prompt: Sequence[int],
    index: int,
    n_tokens: int,
    plans: Sequence[tuple[str, int]],
    *,
    every: bool,
) -> Counter[str]:
    """Run one prompt through all of its cases; counts of runs, tokens, bits and of those that differ, in all and for
    each drafter ("prefix different_tokens") and setting.
    """
    counts: Counter[str] = Counter()
    truths: dict[int, Text] = {}
    plain = [
        Case("off", 0, setting, law) for setting in SETTINGS for law in ((0, 1) if every else (index % len(LAWS),))
    ]
    for case in (*plain, *cases(index, plans, every=every)):
        if case.law not in truths:
            truths[case.law] = generate(models[SETTINGS[0]], prompt, n_tokens, speculate="off", **LAWS[case.law])
        truth = truths[case.law]
        options: dict[str, Any] = {"speculate": case.drafter, **LAWS[case.law]}
        if case.block_size:
            options["block_size"] = case.block_size
        found = generate(models[case.setting], prompt, n_tokens, **options)
        wrong = sum(a != b for a, b in zip(truth.token_ids, found.token_ids, strict=False))
        found_counts = {
            "runs": 1,
            "tokens": len(truth.token_ids),
            "bits": 32 * truth.logits.size,
            "drafted": found.n_drafted,
            "accepted": found.n_accepted,
            "different_tokens": wrong + abs(len(truth.token_ids) - len(found.token_ids)),
            "different_bits": different_bits(truth.logits, found.logits),
        }
        threads, share, policy = case.setting
        where = f"{threads} threads {100 * share:.0f}% {policy}"
        law = "sampled" if "seed" in LAWS[case.law] else "greedy"
        for key, value in found_counts.items():
            for group in ("all", case.drafter, f"block {case.block_size}", where, law):
                counts[f"{group}: {key}"] += value
    return counts
