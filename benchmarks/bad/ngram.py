"""Accepted tokens a step of n-gram drafting, without a model, beside suffix decoding and prompt lookup.

A trace is a prompt and the ids that a model then chose, or would choose. At every step the drafter proposes at most K
ids; accepted are those before the first that is wrong, and one more id, which the model itself gives, ends the step.
`python -m benchmarks.bad --work DIR --only ngram` measures; its traces are of repositories on which nothing was tuned.
`python -m benchmarks.bad.ngram` replays the tuning traces and writes csrc/ngram/priors.h anew.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bad import ngram_contenders as contenders
from benchmarks.bad.ngram_oracle import best_copy
from benchmarks.bad.ngram_traces import Trace, build_traces
from benchmarks.bad.prompts import DATA
from benchmarks.bad.setting import SpeculationSetting
from benchmarks.c3.report import Figure, MissingPeerError
from benchmarks.machine import print_table
from vortex_engine import _native

_LIMITS = (8, 16, 32)
_EDITS = ("edit", "twin", "fix")
_KINDS = (*_EDITS, "completion", "random")
_N_FILES = 60
_OVER_ARCTIC, _OVER_LOOKUP, _STEP_US = 1.1, 1.5, 2.0
_TIMED_LIMIT = 16
_BEST = "best copy, known afterwards"
_PRIORS = Path(__file__).resolve().parents[2] / "csrc" / "ngram" / "priors.h"


@dataclass
class Tally:
    """Sums over traces; times in seconds."""

    n_traces: int = 0
    n_prompt_ids: int = 0
    n_output_ids: int = 0
    n_steps: int = 0
    n_proposed: int = 0
    n_accepted: int = 0
    prompt_s: float = 0.0
    output_s: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def accepted_per_step(self) -> float:
        """Drafted ids that were right; the id that ends a step is not among them."""
        return self.n_accepted / self.n_steps

    def to_dict(self) -> dict[str, Any]:
        """Sums and their ratios as JSON."""
        return {
            **{name: value for name, value in vars(self).items() if not name.endswith("_s")},
            "accepted_per_step": self.accepted_per_step,
            "tokens_per_step": self.n_output_ids / self.n_steps,
            "precision": self.n_accepted / self.n_proposed if self.n_proposed else None,
            "us_per_prompt_token": 1e6 * self.prompt_s / self.n_prompt_ids,
            "us_per_token": 1e6 * self.output_s / self.n_output_ids,
            "us_per_step": 1e6 * self.output_s / self.n_steps,
        }


def replay(contender: contenders.Contender, trace: Trace) -> Tally:
    """One trace from its first id to its last."""
    clock = time.perf_counter
    output = trace.output_ids
    tally = Tally(n_traces=1, n_prompt_ids=len(trace.prompt_ids), n_output_ids=len(output))
    start = clock()
    contender.push(trace.prompt_ids)
    tally.prompt_s = clock() - start
    place = 0
    while place < len(output):
        start = clock()
        drafted = contender.propose()
        tally.output_s += clock() - start
        end = place
        for token_id in drafted:
            if end == len(output) or token_id != output[end]:
                break
            end += 1
        tally.n_proposed += len(drafted)
        tally.n_accepted += end - place
        tally.n_steps += 1
        follow = output[place : end + 1]
        start = clock()
        contender.push(follow)
        tally.output_s += clock() - start
        place += len(follow)
    return tally


def copy_best(trace: Trace, limit: int) -> Tally:
    """One trace as nobody can draft it who does not know how it goes on."""
    n_steps, n_accepted = best_copy(trace, limit)
    n_prompt, n_output = len(trace.prompt_ids), len(trace.output_ids)
    return Tally(1, n_prompt, n_output, n_steps, n_proposed=n_accepted, n_accepted=n_accepted)


def replay_all(maker: contenders.Maker, limit: int, traces: Sequence[Trace]) -> dict[str, Tally]:
    """Tallies by kind, and of all kinds of edits together as "all edits"."""
    return _by_kind((trace.kind, replay(maker(limit), trace)) for trace in traces)


def _by_kind(pairs: Iterable[tuple[str, Tally]]) -> dict[str, Tally]:
    tallies: dict[str, Tally] = defaultdict(Tally)
    for kind, tally in pairs:
        tallies[kind] += tally
        if kind in _EDITS:
            tallies["all edits"] += tally
    return tallies


def measure(setting: SpeculationSetting) -> Figure:
    """Every contender on the held-out traces at every limit; then the time of ours, taking turns."""
    figure = Figure()
    traces = build_traces(setting.data, "held-out", 4 if setting.quick else _N_FILES)
    makers = contenders.ours()
    for peer in (contenders.arctic, contenders.prompt_lookup):
        try:
            makers |= peer()
        except MissingPeerError as error:
            figure.skip(error)
    found: dict[tuple[str, int], dict[str, Tally]] = {}
    for limit in _LIMITS:
        for name, maker in makers.items():
            if name == contenders.NATIVE:
                continue
            found[name, limit] = replay_all(maker, limit, traces)
        found[_BEST, limit] = _by_kind((trace.kind, copy_best(trace, limit)) for trace in traces)
    figure.entries = [
        {"contender": name, "limit": limit, "kind": kind, **tally.to_dict()}
        for (name, limit), tallies in found.items()
        for kind, tally in tallies.items()
    ]
    _claim_ratios(figure, found)
    _time_ours(figure, makers, traces, setting.rounds(9))
    print_table(
        ("limit", "contender", *_KINDS, "all edits", "precision", "us a token"),
        [
            [
                limit,
                name,
                *(tallies[kind].accepted_per_step for kind in (*_KINDS, "all edits")),
                tallies["all edits"].n_accepted / max(tallies["all edits"].n_proposed, 1),
                tallies["all edits"].to_dict()["us_per_token"],
            ]
            for (name, limit), tallies in found.items()
        ],
    )
    return figure


def _claim_ratios(figure: Figure, found: dict[tuple[str, int], dict[str, Tally]]) -> None:
    """Ours over each peer on all edits, at the limit where it is ahead least; arctic-inference as it accepts most."""
    for peer, target in ((contenders.ARCTIC_LONG, _OVER_ARCTIC), (contenders.LOOKUP, _OVER_LOOKUP)):
        if (peer, _LIMITS[0]) not in found:
            continue
        ratios: dict[int, float] = {}
        details: list[str] = []
        for limit in _LIMITS:
            mine, theirs, most = (
                found[name, limit]["all edits"].accepted_per_step for name in (contenders.OURS, peer, _BEST)
            )
            ratios[limit] = mine / theirs
            details.append(f"{mine:.2f} over {theirs:.2f} at {limit}, of {most:.2f} at best")
        what = "accepted tokens a step on code edits over the peer's, at equal limits"
        figure.claim(what, min(ratios.values()), ">=", target, peer=peer, detail=", ".join(details))


def _time_ours(figure: Figure, makers: dict[str, contenders.Maker], traces: Sequence[Trace], rounds: int) -> None:
    """Propose and update, Python's calls included, in microseconds a token of the output."""
    timed = [name for name in (contenders.OURS, contenders.NATIVE) if name in makers]
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name in timed:
            for kind, tally in replay_all(makers[name], _TIMED_LIMIT, traces).items():
                taken[name, kind].append(1e6 * tally.output_s / tally.n_output_ids)
                taken[name, f"{kind}, prompt"].append(1e6 * tally.prompt_s / tally.n_prompt_ids)
    figure.facts["limit_of_timing"] = _TIMED_LIMIT
    figure.facts["us_per_token"] = {
        name: {kind: statistics.median(values) for (who, kind), values in taken.items() if who == name}
        for name in timed
    }
    name = contenders.OURS
    what, per_kind = "n-gram propose and update, us a token", figure.facts["us_per_token"][name]
    detail = ", ".join(f"{kind} {per_kind[kind]:.2f}" for kind in (*_KINDS, "all edits") if kind in per_kind)
    figure.claim(what, per_kind["all edits"], "<=", _STEP_US, detail=detail)


def tuned_rates(traces: Sequence[Trace], passes: int = 2) -> list[int]:
    """Hit rates, in thousandths, after the traces in random order, as csrc/ngram/priors.h lists them."""
    native = _native.NgramDrafter(1 << 18, 1e9)
    for seed in range(passes):
        order = [trace for trace in traces if trace.kind != "random"]
        random.Random(seed).shuffle(order)
        for trace in order:
            native.restart()
            replay(contenders.Native(16, native), trace)
    return [round(1000 * rate) for rate in native.rates()]


def main() -> None:
    """Tune: put the measured rates in the place of the priors, number by number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of corpus and tokenizers")
    rates = iter(tuned_rates(build_traces(parser.parse_args().data, "tune", _N_FILES)))
    lines = _PRIORS.read_text().splitlines()
    for i, line in enumerate(lines):
        if line.startswith("    ") and line.strip()[:1].isdigit():
            count = line.count(",")
            lines[i] = "    " + ", ".join(str(next(rates)) for _ in range(count)) + ","
    assert next(rates, None) is None
    _PRIORS.write_text("\n".join(lines) + "\n")
    print(f"{_PRIORS}: rates of the tuning traces; build again")


if __name__ == "__main__":
    main()
