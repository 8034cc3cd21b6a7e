"""The main job in one call: one model at several budgets, the same text and the same logits every time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vortex_engine.belady import best_byte_hit_rate, sweep_tile_bytes
from vortex_engine.profile import available_ram_bytes

if TYPE_CHECKING:
    from vortex_engine.decode.model import Model

__all__ = ["PROMPT", "BudgetRun", "DemoReport", "run_demo"]

FRACTIONS = (1.0, 0.5, 0.25)
PROMPT = 'def count_words(text):\n    """Return how often each word occurs."""\n'


@dataclass(frozen=True)
class BudgetRun:
    """What one budget gave, from a cold start; bytes are compressed bytes of weights."""

    fraction: float
    budget_bytes: int
    peak_bytes: int
    hit_rate: float
    belady_hit_rate: float
    bytes_read_per_token: float
    tokens_per_s: float
    n_tokens: int
    text_sha256: str
    logits_sha256: str


@dataclass(frozen=True)
class DemoReport:
    """The runs, the budgets left out with the reason, and the verdict."""

    model: str
    prompt: str
    text: str
    total_bytes: int
    runs: tuple[BudgetRun, ...]
    skipped: tuple[str, ...]
    same_text: bool
    same_logits: bool

    @property
    def same(self) -> bool:
        """Whether every budget gave the same text and the same logits, bit for bit."""
        return self.same_text and self.same_logits

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON document."""
        document = asdict(self)
        document["budgets"] = document.pop("runs")
        return {**document, "same": self.same}


def run_demo(
    model: str = "nano",
    *,
    prompt: str = PROMPT,
    max_new_tokens: int = 48,
    threads: int | None = None,
    on_text: Callable[[str], None] | None = None,
    on_budget: Callable[[int, int], None] | None = None,
) -> DemoReport:
    """Generate from `model` at 100 %, 50 % and 25 % of its weights and compare text and logits bit for bit.

    Args:
        model: Packed model directory or "nano".
        prompt: Text to continue, greedily.
        max_new_tokens: Tokens to generate at each budget.
        threads: Threads that compute; None takes every core.
        on_text: Called with each piece of text while the first budget generates.
        on_budget: Called with (budgets done, budgets in all).

    Raises:
        BudgetError: A quarter of the weights is less than the pager's minimum.
    """
    import vortex_engine as vx
    from vortex_engine.c3.directory import open_directory
    from vortex_engine.decode.load import model_path

    directory = open_directory(model_path(model))
    sweep_bytes = sum(sweep_tile_bytes(directory))
    total_bytes = directory.compressed_bytes
    runs: list[BudgetRun] = []
    skipped: list[str] = []
    text = ""
    for number, fraction in enumerate(FRACTIONS):
        budget_bytes = int(total_bytes * fraction)
        available = available_ram_bytes()
        if budget_bytes > available:
            skipped.append(f"{fraction:.0%}: {budget_bytes} bytes do not fit the {available} bytes of free RAM")
            continue
        with vx.load(model, ram_budget=budget_bytes, threads=threads) as loaded:
            show = None if runs else on_text
            text, run = _run_budget(loaded, prompt, max_new_tokens, fraction, sweep_bytes, show)
        runs.append(run)
        if on_budget is not None:
            on_budget(number + 1, len(FRACTIONS))
    return DemoReport(
        model=model,
        prompt=prompt,
        text=text,
        total_bytes=total_bytes,
        runs=tuple(runs),
        skipped=tuple(skipped),
        same_text=len({run.text_sha256 for run in runs}) == 1,
        same_logits=len({run.logits_sha256 for run in runs}) == 1,
    )


def _run_budget(
    loaded: Model,
    prompt: str,
    max_new_tokens: int,
    fraction: float,
    sweep_bytes: int,
    on_text: Callable[[str], None] | None,
) -> tuple[str, BudgetRun]:
    text: list[str] = []
    token_ids: list[int] = []
    stats: Mapping[str, Any] = {}
    n_eos = 0
    for piece in loaded.stream(prompt, max_new_tokens=max_new_tokens, speculate="off"):
        text.append(piece.text)
        token_ids.extend(piece.token_ids)
        if on_text is not None:
            on_text(piece.text)
        if piece.stats is not None:
            stats, n_eos = piece.stats, int(piece.finish_reason == "stop")
    # Counted since loading: residents are read from then on, before the first token asks for them.
    counters = loaded.stats
    n_sweeps = -(-stats["n_prompt_tokens"] // stats["prefill_chunk"]) + len(token_ids) + n_eos - 1
    logits = loaded.logits([*loaded.tokenizer.encode(prompt), *token_ids])
    joined = "".join(text)
    budget_bytes = counters["budget_bytes"]
    return joined, BudgetRun(
        fraction=fraction,
        budget_bytes=budget_bytes,
        peak_bytes=loaded.stats["peak_bytes"],
        hit_rate=max(0, n_sweeps * sweep_bytes - counters["bytes_compressed_read"]) / (n_sweeps * sweep_bytes),
        belady_hit_rate=best_byte_hit_rate(sweep_bytes, n_sweeps=n_sweeps, budget_bytes=budget_bytes),
        bytes_read_per_token=counters["bytes_compressed_read"] / max(1, len(token_ids)),
        tokens_per_s=stats["tokens_per_s"] or 0.0,
        n_tokens=len(token_ids),
        text_sha256=hashlib.sha256(joined.encode()).hexdigest(),
        logits_sha256=hashlib.sha256(logits.tobytes()).hexdigest(),
    )
