"""The numbers a result carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from vortex_engine.decode.generation import Generation
from vortex_engine.decode.load import LoadedParts
from vortex_engine.decode.output import OutputText

__all__ = ["counter_deltas", "generation_stats", "machine_stats"]

_COUNTED = ("page_faults", "hits", "prefetch_hits", "bytes_compressed_read", "evictions", "stall_s")


def machine_stats(parts: LoadedParts) -> dict[str, Any]:
    """The pager's counters and how the model runs."""
    return {**parts.pager.counters(), **_placement(parts)}


def counter_deltas(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What the counters counted between two readings; sizes as they are at the second."""
    return {key: value - before[key] if key in _COUNTED else value for key, value in after.items()}


def generation_stats(
    parts: LoadedParts,
    generation: Generation,
    output: OutputText,
    counters: Mapping[str, Any],
    n_prompt_tokens: int,
) -> dict[str, Any]:
    """Speeds, sizes and counters of one generation; a speed that was not measured is None.

    `tokens_per_s` counts the tokens after the first, whose time is `ttft_s`.
    """
    timing, planner = generation.timing, generation.planner
    start, prefill_end = timing.start_s, timing.prefill_end_s
    first, last = timing.first_token_s, timing.last_token_s
    tokens_per_s = prefill_tokens_per_s = ttft_s = None
    if first is not None and last is not None and last > first:
        tokens_per_s = (output.n_chosen_tokens - 1) / (last - first)
    if prefill_end is not None and prefill_end > start:
        prefill_tokens_per_s = n_prompt_tokens / (prefill_end - start)
    if first is not None:
        ttft_s = first - start
    n_drafted = sum(count.drafted + count.siblings for count in planner.counts.values())
    n_accepted = sum(count.accepted + count.siblings_accepted for count in planner.counts.values())
    return {
        **counters,
        **_placement(parts),
        "n_prompt_tokens": n_prompt_tokens,
        "n_new_tokens": output.n_new_tokens,
        "tokens_per_s": tokens_per_s,
        "prefill_tokens_per_s": prefill_tokens_per_s,
        "ttft_s": ttft_s,
        "tokens_per_sweep": output.n_chosen_tokens / timing.n_token_sweeps if timing.n_token_sweeps else None,
        "n_token_sweeps": timing.n_token_sweeps,
        "kv_bytes": generation.state.kv_bytes,
        "speculate": "+".join(planner.counts) or "off",
        "drafters": {name: asdict(count) for name, count in planner.counts.items()},
        "n_drafted": n_drafted,
        "n_accepted": n_accepted,
        "n_rejected": n_drafted - n_accepted,
        "draft_s": planner.draft_s,
        "verify_s": planner.verify_s,
    }


def _placement(parts: LoadedParts) -> dict[str, Any]:
    return {
        "backend": parts.ctx.backend,
        "simd": parts.ctx.simd,
        "threads": parts.ctx.threads,
        "ram_budget_bytes": parts.ram_budget_bytes,
        "peak_ram_bytes": parts.pager.counters()["peak_bytes"],
        "prefill_chunk": parts.prefill_chunk,
        "activations": parts.activations,
    }
