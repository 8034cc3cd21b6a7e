"""Why it is not faster and what to buy or change: budget, disk, codec and cores, each with the speed it allows.

Every number is arithmetic on the model's bytes and the measured rates: a ceiling, not a promise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vortex_engine.bench.bound import EXPLAINED, Bound, Rates, Speed

__all__ = ["Change", "CodecRate", "Explanation", "Situation", "explain"]

# A ceiling this close to the one before it is not worth money.
_WORTH = 1.05


@dataclass(frozen=True)
class CodecRate:
    """What a codec needs for a weight and how fast its kernel multiplies one row with weights in a cache."""

    bits_per_weight: float
    gweights_per_s: float
    lossless: bool


@dataclass(frozen=True)
class Situation:
    """What the arithmetic needs to know of the model and the machine.

    Attributes:
        codec: what the model is packed with.
        budget_bytes: of weights that may be in RAM.
        all_bytes: of all packed weights, rows that are only looked up included.
        available_ram_bytes: what the machine could give to the budget in all.
        stall_s: of a token, spent waiting for reads, summed over threads.
    """

    codec: str
    budget_bytes: int
    all_bytes: int
    available_ram_bytes: int
    stall_s: float


@dataclass(frozen=True)
class Change:
    """Something to buy or change; tokens_per_s is the lowest ceiling after it, helps says whether that is higher."""

    what: str
    words: str
    tokens_per_s: float
    helps: bool


@dataclass(frozen=True)
class Explanation:
    """The run beside its ceilings.

    Attributes:
        lines: the whole answer in sentences, for people.
        binds: disk, memory or compute.
        share_of_ceiling: measured over the binding ceiling.
        ceilings: tokens/s of disk (None where nothing is missing), memory and compute.
        all_fit_budget_bytes: with this budget every weight is in RAM.
        disk_free_budget_bytes: from this budget up the disk does not bind.
        changes: what was considered, with the ceiling after it.
    """

    lines: tuple[str, ...]
    binds: str
    share_of_ceiling: float
    ceilings: dict[str, float | None]
    all_fit_budget_bytes: int
    disk_free_budget_bytes: int
    changes: tuple[Change, ...]

    def to_dict(self) -> dict[str, Any]:
        """The explanation as JSON."""
        return asdict(self)


def explain(
    speed: Speed, rates: Rates, bound: Bound, situation: Situation, codecs: Mapping[str, CodecRate]
) -> Explanation:
    """Put a measured run beside what the machine allows, and say what would change it."""
    in_ram = min(bound.memory_ceiling_tokens_per_s, bound.compute_ceiling_tokens_per_s)
    # The disk stops binding where reading what is missing takes as long as the rest of a token.
    disk_free = max(0, round(speed.total_bytes - rates.disk_gb_s * 1e9 / in_ram))
    changes = [
        *_budget_changes(situation, bound, in_ram, disk_free),
        *_disk_changes(rates, bound, in_ram),
        *_codec_changes(speed, rates, bound, situation, codecs),
        _more_cores(rates, bound),
    ]
    ceilings = {
        "disk": bound.disk_ceiling_tokens_per_s,
        "memory": bound.memory_ceiling_tokens_per_s,
        "compute": bound.compute_ceiling_tokens_per_s,
    }
    shown = ", ".join(
        f"{name} {'reads nothing' if ceiling is None else format_speed(ceiling)}" for name, ceiling in ceilings.items()
    )
    lines = [
        f"Measured: {format_speed(speed.tokens_per_s)} tokens/s. Ceilings, in tokens/s: {shown}.",
        f"What binds is {bound.words}.",
        f"The run came to {bound.share_of_ceiling:.0%} of that.",
    ]
    if bound.share_of_ceiling > _WORTH:
        lines[-1] += " More than all means that the machine was slower when its rates were measured."
    if bound.share_of_ceiling < EXPLAINED:
        lines[-1] += " The rest goes to other programs, or to work besides the weights: attention, sampling, waiting."
    if situation.stall_s > 0 and speed.tokens_per_s > 0:
        lines.append(
            f"A token took {1e3 / speed.tokens_per_s:.1f} ms; its {rates.threads} threads together waited "
            f"{1e3 * situation.stall_s:.1f} ms for reads."
        )
    lines += [f"{change.what}: {change.words}." for change in changes if change.helps]
    lines += [f"{change.what} would not help: {change.words}." for change in changes if not change.helps]
    return Explanation(
        lines=tuple(lines),
        binds=bound.bound,
        share_of_ceiling=bound.share_of_ceiling,
        ceilings=ceilings,
        all_fit_budget_bytes=situation.all_bytes,
        disk_free_budget_bytes=disk_free,
        changes=tuple(changes),
    )


def format_speed(tokens_per_s: float) -> str:
    """Three digits where there are so many."""
    return f"{tokens_per_s:.0f}" if tokens_per_s >= 100 else f"{tokens_per_s:.3g}"


def _budget_changes(situation: Situation, bound: Bound, in_ram: float, disk_free: int) -> list[Change]:
    now, total = bound.ceiling_tokens_per_s, situation.all_bytes
    if bound.disk_ceiling_tokens_per_s is None:
        return [Change("More RAM", f"all {_mb(total)} of weights are in the budget already", now, False)]
    short = ""
    if total > situation.available_ram_bytes:
        short = f" (this machine can give {_mb(situation.available_ram_bytes)})"
    at_most = f"{format_speed(in_ram)} tokens/s at most"
    changes = [_change(_budget_option(total), f"with {_mb(total)}{short} all weights fit: {at_most}", in_ram, now)]
    if situation.budget_bytes < disk_free < total:
        words = f"from {_mb(disk_free)} on the disk no longer binds: {at_most}"
        changes.insert(0, _change(_budget_option(disk_free), words, in_ram, now))
    return changes


def _disk_changes(rates: Rates, bound: Bound, in_ram: float) -> list[Change]:
    if bound.disk_ceiling_tokens_per_s is None:
        return [Change("A faster disk", "a token reads nothing from it", bound.ceiling_tokens_per_s, False)]
    needed = rates.disk_gb_s * in_ram / bound.disk_ceiling_tokens_per_s
    words = (
        f"with {needed:.2f} GB/s instead of {rates.disk_gb_s:.2f} this budget allows {format_speed(in_ram)} tokens/s"
        if needed > rates.disk_gb_s
        else f"{needed:.2f} of its {rates.disk_gb_s:.2f} GB/s are enough at this budget"
    )
    return [_change("A faster disk", words, max(in_ram, bound.ceiling_tokens_per_s), bound.ceiling_tokens_per_s)]


def _codec_changes(
    speed: Speed, rates: Rates, bound: Bound, situation: Situation, codecs: Mapping[str, CodecRate]
) -> list[Change]:
    """Other codecs, those with more bits only where they help; computing scales as the kernels do on one matrix."""
    now, own = bound.ceiling_tokens_per_s, codecs.get(situation.codec)
    if own is None:
        return []
    changes: list[Change] = []
    for codec, rate in codecs.items():
        if codec == situation.codec:
            continue
        n_bytes = speed.total_bytes * rate.bits_per_weight / own.bits_per_weight
        missing = max(0.0, n_bytes - situation.budget_bytes)
        disk = rates.disk_ceiling(missing)
        compute = bound.compute_ceiling_tokens_per_s * rate.gweights_per_s / own.gweights_per_s
        ceiling = min(rates.memory_ceiling(n_bytes), compute, disk or float("inf"))
        fits = "all of it fits this budget" if disk is None else f"{_mb(missing)} of it missing"
        loss = "lossless" if rate.lossless else "rounds the weights"
        words = (
            f"{rate.bits_per_weight:.1f} bits a weight ({loss}) make {_mb(n_bytes)}, {fits}: "
            f"{format_speed(ceiling)} tokens/s at most"
        )
        change = _change(f"vortex pack --codec {codec}", words, ceiling, now)
        if change.helps or rate.bits_per_weight < own.bits_per_weight:
            changes.append(change)
    return changes


def _more_cores(rates: Rates, bound: Bound) -> Change:
    now, compute = bound.ceiling_tokens_per_s, bound.compute_ceiling_tokens_per_s
    others = [bound.memory_ceiling_tokens_per_s, bound.disk_ceiling_tokens_per_s or float("inf")]
    doubled = min(2 * compute, *others)
    words = f"computing alone reaches {format_speed(compute)} tokens/s with {rates.threads} threads"
    if doubled > now * _WORTH:
        words += f", twice as many would allow {format_speed(doubled)} in all"
    return _change("More cores", words, doubled, now)


def _change(what: str, words: str, tokens_per_s: float, now: float) -> Change:
    return Change(what, words, tokens_per_s, tokens_per_s > now * _WORTH)


def _budget_option(n_bytes: int) -> str:
    return f"--ram-budget {-(-n_bytes // 10**6)}000000B"


def _mb(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"
