"""One benchmark of one model: prefill and decoding, beside what bounds them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vortex_engine.belady import sweep_tile_bytes
from vortex_engine.bench.bound import Bound, Rates, Speed, find_bound
from vortex_engine.bench.explain import Explanation, Situation, explain
from vortex_engine.machine import describe_machine, peak_rss_bytes
from vortex_engine.profile import available_ram_bytes

if TYPE_CHECKING:
    from vortex_engine import GenerationResult, Model

__all__ = ["BenchOptions", "BenchReport", "load_for", "prompt_ids", "run_bench"]

SCHEMA = 1


@dataclass(frozen=True)
class BenchOptions:
    """What is measured."""

    ram_budget: str | int | None = None
    threads: int | None = None
    policy: str = "stable"
    n_prompt_tokens: int = 64
    max_new_tokens: int = 32
    repeats: int = 3
    activations: str | None = None
    speculate: str = "auto"
    block_size: int | None = None
    draft_model: str | None = None
    prompt: str | None = None  # text to continue instead of n_prompt_tokens ids spread over the vocabulary


@dataclass(frozen=True)
class Speculation:
    """Decoding with speculation beside plain decoding of the same prompt; speeds are medians over the repeats.

    Attributes:
        speculate: the drafters that ran, "off" where the model has none.
        speedup: of tokens/s over plain decoding.
        same_output: whether the ids were those of plain decoding.
        stats: of the median repeat.
    """

    speculate: str
    decode_tokens_per_sec: float
    decode_tokens_per_sec_all: tuple[float, ...]
    tokens_per_sweep: float
    speedup: float
    same_output: bool
    stats: Mapping[str, Any]


@dataclass(frozen=True)
class BenchReport:
    """One benchmark of one model; speeds are medians over the repeats, counters those of the median repeat.

    Hit rates are shares of a sweep's bytes: those found in RAM, and the most that any policy finds with this budget.
    """

    schema: int
    model: str
    options: BenchOptions
    tokens_per_sec: float
    prefill_tokens_per_sec: float
    decode_tokens_per_sec: float
    ttft_s: float
    bytes_read_per_token: float
    hit_rate: float
    belady_hit_rate: float
    decode_tokens_per_sec_all: tuple[float, ...]
    speculation: Speculation
    rates: Rates
    bound: Bound
    explanation: Explanation
    stats: Mapping[str, Any]
    peak_rss_bytes: int | None
    vram_peak_mb: float | None
    backend: str
    active_adapters: tuple[str, ...]
    adapter_load_ms: float | None
    machine: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON document."""
        return asdict(self)


def run_bench(
    model: str, options: BenchOptions, on_repeat: Callable[[int, int, str], None] | None = None
) -> BenchReport:
    """Measure prefill and decoding of `model`.

    Args:
        model: Packed model directory or "nano".
        options: What is measured.
        on_repeat: Called with (runs done, runs in all, what runs).
    """
    from vortex_engine.bench.rates import measure_codecs, measure_rates, packing_options
    from vortex_engine.c3.directory import open_directory
    from vortex_engine.decode.load import model_path

    if options.repeats < 1 or options.n_prompt_tokens < 1:
        raise ValueError("[bench] repeats and prompt tokens must be at least 1")
    if options.max_new_tokens < 2:
        raise ValueError("[bench] new tokens must be at least 2: the first one comes from the prompt's sweep")
    with load_for(model, options) as loaded:
        plain = _Runs(loaded, options, "off", on_repeat)
        results = [out.stats for out in plain.results]
        drafted = _Runs(loaded, options, options.speculate, on_repeat)
    peak_rss = peak_rss_bytes()  # before the measurements below take memory of their own
    stats = plain.median_stats
    n_sweeps = -(-stats["n_prompt_tokens"] // stats["prefill_chunk"]) + stats["n_new_tokens"] - 1
    missing_bytes = stats["bytes_compressed_read"] / n_sweeps
    directory = open_directory(model_path(model))
    decode_speed = statistics.median(plain.speeds)
    speed = Speed(decode_speed, sum(sweep_tile_bytes(directory)), missing_bytes)
    rates = measure_rates(directory, stats["threads"], stats["activations"])
    bound = find_bound(speed, rates)
    situation = Situation(
        codec=packing_options(directory.codec, stats["activations"]),
        budget_bytes=stats["budget_bytes"],
        all_bytes=directory.compressed_bytes,
        available_ram_bytes=available_ram_bytes() + stats["peak_bytes"],
        stall_s=stats["stall_s"] / n_sweeps,
    )
    return BenchReport(
        schema=SCHEMA,
        model=model,
        options=options,
        tokens_per_sec=decode_speed,
        prefill_tokens_per_sec=statistics.median(result["prefill_tokens_per_s"] or 0.0 for result in results),
        decode_tokens_per_sec=decode_speed,
        ttft_s=statistics.median(result["ttft_s"] for result in results),
        bytes_read_per_token=missing_bytes,
        hit_rate=max(0.0, 1 - missing_bytes / speed.total_bytes),
        belady_hit_rate=min(1.0, stats["budget_bytes"] / speed.total_bytes),
        decode_tokens_per_sec_all=plain.speeds,
        speculation=_speculation(plain, drafted),
        rates=rates,
        bound=bound,
        explanation=explain(speed, rates, bound, situation, measure_codecs(stats["threads"])),
        stats=dict(stats),
        peak_rss_bytes=peak_rss,
        vram_peak_mb=None,
        backend=stats["backend"],
        active_adapters=(),
        adapter_load_ms=None,
        machine=describe_machine(),
    )


class _Runs:
    """Generations of one kind after a warm-up: a decoding speed is that of a pager in its steady state."""

    def __init__(
        self, loaded: Model, options: BenchOptions, speculate: str, on_repeat: Callable[[int, int, str], None] | None
    ) -> None:
        prompt = options.prompt or prompt_ids(options.n_prompt_tokens, loaded.vocab_size)
        self.results: list[GenerationResult] = []
        for number in range(options.repeats + 1):
            if on_repeat is not None:
                name = "plain" if speculate == "off" else "speculation"
                on_repeat(number, options.repeats + 1, f"{name}, {f'run {number}' if number else 'warm-up'}")
            out = loaded.generate(
                prompt,
                max_new_tokens=options.max_new_tokens,
                ignore_eos=True,
                speculate=speculate,
                block_size=None if speculate == "off" else options.block_size,
            )
            if number:
                self.results.append(out)
        self.speeds = tuple(out.stats["tokens_per_s"] or 0.0 for out in self.results)
        order = sorted(range(len(self.speeds)), key=lambda i: self.speeds[i])
        self.median_stats = self.results[order[len(order) // 2]].stats


def _speculation(plain: _Runs, drafted: _Runs) -> Speculation:
    speed, plain_speed = statistics.median(drafted.speeds), statistics.median(plain.speeds)
    stats = drafted.median_stats
    return Speculation(
        speculate=stats["speculate"],
        decode_tokens_per_sec=speed,
        decode_tokens_per_sec_all=drafted.speeds,
        tokens_per_sweep=stats["tokens_per_sweep"],
        speedup=speed / plain_speed if plain_speed else 0.0,
        same_output=len({out.token_ids for out in (*plain.results, *drafted.results)}) == 1,
        stats=dict(stats),
    )


def load_for(model: str, options: BenchOptions) -> Model:
    """The model as the options want it loaded."""
    import vortex_engine as vx

    return vx.load(
        model,
        ram_budget=options.ram_budget,
        threads=options.threads,
        policy=options.policy,
        activations=options.activations,
        draft_model=options.draft_model,
    )


def prompt_ids(n_tokens: int, vocab_size: int) -> Sequence[int]:
    """Ids spread over the vocabulary, the same in every run."""
    return [(7919 * i + 1) % vocab_size for i in range(n_tokens)]
