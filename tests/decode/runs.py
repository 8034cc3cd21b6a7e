"""What a generation chose, with the very bits it was chosen from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import vortex_engine as vx
from vortex_engine._native import crc32c
from vortex_engine.decode.generation import Generation
from vortex_engine.decode.options import split_arguments


@dataclass(frozen=True)
class Run:
    """Chosen ids, and a checksum of each row of logits that chose one."""

    token_ids: tuple[int, ...]
    logits_crcs: tuple[int, ...]


def start(model: vx.Model, prompt: Sequence[int], n_tokens: int, **arguments: Any) -> Generation:
    """A generation whose blocks were not asked for yet."""
    params, options = split_arguments(arguments)
    return model._generation(prompt, params, options, n_tokens)


def run(model: vx.Model, prompt: Sequence[int], n_tokens: int, **arguments: Any) -> Run:
    """Exactly `n_tokens` tokens after the prompt; an EOS does not end it."""
    return finish(start(model, prompt, n_tokens, **arguments), n_tokens)


def finish(generation: Generation, n_tokens: int) -> Run:
    """The first `n_tokens` of a generation."""
    token_ids: list[int] = []
    crcs: list[int] = []
    for block in generation.blocks():
        token_ids.extend(block.token_ids)
        crcs.extend(crc32c(row.tobytes()) for row in block.logits)
        if len(token_ids) >= n_tokens:
            break
    return Run(tuple(token_ids[:n_tokens]), tuple(crcs[:n_tokens]))
