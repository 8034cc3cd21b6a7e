"""Tokens a second of a gigabyte that is predictable inside memory cgroups: plain, speculating, and llama.cpp beside it.

The model is `nano` grown to 1.05 GB of bf16 (`benchmarks.bad.widen`); the budget is a share of those bytes, the cgroup
that and the KV state and 90 MB for the process. Every run is a process with a cold page cache that continues the same
prompts greedily. Ours plain at the whole budget writes the text that every other run of ours must write. llama.cpp maps
its bf16 file, has the same cgroup, and looks up n-grams in the way that was fastest with everything in RAM.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.bad.run_llama import LOOKUPS, continuations
from benchmarks.bad.setting import SpeculationSetting, is_available, kv_bytes
from benchmarks.c3.isolation import MemoryGroup, drop_page_cache, memory_group, run_alone
from benchmarks.c3.report import Figure, MissingPeerError, ratio
from benchmarks.machine import print_table, spread

SHARES = (1.0, 0.6, 0.4, 0.25)  # of the bf16 bytes
MAIN_SHARE = 0.4
PLAIN, BAD = "plain", "BAD"
_ALONE = ("prefix", "ngram", "ngram+prefix")  # drafters that tell who does it
_SPECULATE = {PLAIN: "off", BAD: "auto"} | {drafter: drafter for drafter in _ALONE}
_LLAMA, _LOOKUP = "llama.cpp", "llama.cpp, n-gram lookup"
_BESIDES = 90_000_000
_NEW_TOKENS, _WARM_UP_TOKENS = 64, 8
# Plain speeds do not depend on the text, so slow ones are taken from its beginning.
_PLAIN_TOKENS, _PEER_PLAIN_TOKENS = 32, 12
_PER_KIND = 2
_PLAIN_TARGET, _LLAMA_TARGET = 2.5, 8.0
_TIMEOUT_S = 1800.0
_SCRIPT = Path(__file__).resolve().with_name("run_ours.py")


@dataclass
class _Contender:
    """An engine in one mode at one budget, over the turns."""

    engine: str
    share: float
    speeds: list[float] = field(default_factory=list[float])
    details: dict[str, Any] = field(default_factory=dict[str, Any])

    def entry(self, setting: SpeculationSetting) -> dict[str, Any]:
        budget = int(self.share * setting.wide_bytes())
        speed = spread(self.speeds)
        return {
            "engine": self.engine,
            "share": self.share,
            "budget_bytes": budget,
            "tokens_per_s": speed,
            **self.details,
        }


def measure(setting: SpeculationSetting) -> Figure:
    """Every contender at every budget, one after the other in each turn."""
    figure = Figure()
    packed = setting.wide_packed()
    n_new = 32 if setting.quick else _NEW_TOKENS
    per_kind = 1 if setting.quick else _PER_KIND
    prompts = [
        *setting.prompt_ids(packed, per_kind, "humaneval", max_tokens=256),
        *setting.prompt_ids(packed, per_kind, "prose", max_tokens=256),
    ]
    figure.facts = {"shape": setting.wide_name, "threads": setting.threads, "bf16_bytes": setting.wide_bytes()}
    figure.facts |= {"n_prompts": len(prompts), "new_tokens": n_new, "main_share": MAIN_SHARE}
    try:
        drop_page_cache()
        with memory_group(1 << 30):
            pass
    except MissingPeerError as error:
        figure.skip(f"the whole figure: {error}")
        return figure
    expected = _texts(_ours(setting, packed, prompts, n_new, PLAIN, 1.0))
    runs: dict[tuple[str, float], _Contender] = {}
    lookup = _fastest_lookup(setting, figure, prompts, n_new)
    n_different: dict[float, int] = defaultdict(int)
    alone = [engine for engine in _ALONE if is_available(_SPECULATE[engine])]
    for turn in range(setting.rounds(3)):
        for share in SHARES:
            is_main = share == MAIN_SHARE
            for engine in (PLAIN, BAD, *(alone if is_main and turn == 0 else ())):
                contender = runs.setdefault((engine, share), _Contender(engine, share))
                n_tokens = min(n_new, _PLAIN_TOKENS) if engine == PLAIN and share < 1 else n_new
                result = _ours(setting, packed, prompts, n_tokens, engine, share)
                n_different[share] += _count_different(expected, _texts(result), n_tokens)
                _add_ours(contender, result)
            # What is neither ours nor in a claim is slow, and once is enough.
            if lookup is not None and (is_main or turn == 0):
                _add_llama(setting, figure, runs, prompts, n_new, lookup, share, expected)
    figure.entries = [contender.entry(setting) for contender in runs.values() if contender.speeds]
    figure.facts["different_tokens"] = {f"{share:g}": n_different[share] for share in SHARES}
    figure.facts["lookup"] = lookup
    _claim(figure, sum(n_different.values()))
    _print(figure)
    return figure


def _ours(
    setting: SpeculationSetting, packed: Path, prompts: Sequence[Sequence[int]], n_new: int, engine: str, share: float
) -> dict[str, Any]:
    """One process inside its cgroup."""
    budget = int(share * setting.wide_bytes())
    job: dict[str, Any] = {"model": str(packed), "budget_bytes": budget, "threads": setting.threads}
    job |= {"prompts": prompts, "max_new_tokens": n_new, "warm_up_tokens": _WARM_UP_TOKENS}
    job["options"] = {"speculate": _SPECULATE[engine]}
    with memory_group(_limit(setting, packed, prompts, share)) as group:
        drop_page_cache()
        output = run_alone([sys.executable, str(_SCRIPT), json.dumps(job)], group, _TIMEOUT_S)
        result: dict[str, Any] = json.loads(output.splitlines()[-1])
        result["group_peak_bytes"] = group.peak_bytes()
    return result


def _limit(setting: SpeculationSetting, packed: Path, prompts: Sequence[Sequence[int]], share: float) -> int:
    """Bytes of the cgroup: what ours needs, and llama.cpp gets."""
    n_positions = max(len(prompt) for prompt in prompts) + _NEW_TOKENS
    return int(share * setting.wide_bytes()) + kv_bytes(packed, n_positions) + _BESIDES


def _texts(result: dict[str, Any]) -> list[list[int]]:
    return [answer["token_ids"] for answer in result["answers"]]


def _count_different(expected: list[list[int]], found: list[list[int]], n_tokens: int) -> int:
    """Of the first `n_tokens` of each text, those that are missing or not the expected ones."""
    return sum(
        sum(a != b for a, b in zip(want[:n_tokens], got[:n_tokens], strict=False)) + abs(n_tokens - len(got))
        for want, got in zip(expected, found, strict=True)
    )


def _add_ours(contender: _Contender, result: dict[str, Any]) -> None:
    stats = [answer["stats"] for answer in result["answers"]]
    seconds = [(one["n_new_tokens"] - 1) / one["tokens_per_s"] for one in stats]
    contender.speeds.append(sum(one["n_new_tokens"] - 1 for one in stats) / sum(seconds))
    kept = ("n_drafted", "n_accepted", "draft_s", "verify_s", "bytes_compressed_read")
    contender.details = {key: sum(one.get(key, 0) for one in stats) for key in kept}
    contender.details["tokens_per_sweep"] = sum(one["n_new_tokens"] for one in stats) / sum(
        one["n_new_tokens"] / one["tokens_per_sweep"] for one in stats
    )
    contender.details["drafters"] = [one.get("drafters", {}) for one in stats]
    contender.details["kv_bytes"] = max(one["kv_bytes"] for one in stats)
    contender.details["peak_rss_bytes"] = result["peak_rss_bytes"]
    contender.details["group_peak_bytes"] = result["group_peak_bytes"]


def _fastest_lookup(
    setting: SpeculationSetting, figure: Figure, prompts: Sequence[Sequence[int]], n_new: int
) -> str | None:
    """llama.cpp's best kind of lookup on these prompts with all weights in RAM, where sweeps cost the least time."""
    speeds: dict[str, float] = {}
    try:
        setting.wide_gguf()
        for name in LOOKUPS:
            if name != "off":
                speeds[name] = _llama_speed(_llama(setting, prompts, n_new, name, None))
    except MissingPeerError as error:
        figure.skip(f"llama.cpp: {error}")
        return None
    figure.facts["lookups_in_ram_tokens_per_s"] = speeds
    return max(speeds, key=lambda name: speeds[name])


def _add_llama(
    setting: SpeculationSetting,
    figure: Figure,
    runs: dict[tuple[str, float], _Contender],
    prompts: Sequence[Sequence[int]],
    n_new: int,
    lookup: str,
    share: float,
    expected: list[list[int]],
) -> None:
    ways = [(_LLAMA, "off", _PEER_PLAIN_TOKENS)]
    if share in (1.0, MAIN_SHARE):  # elsewhere it would take the longest of all
        ways.append((_LOOKUP, lookup, n_new))
    for engine, kind, n_tokens in ways:
        try:
            with memory_group(_limit(setting, setting.wide_packed(), prompts, share)) as group:
                drop_page_cache()
                answers = _llama(setting, prompts, n_tokens, kind, group)
        except MissingPeerError as error:
            figure.skip(f"{engine} at {100 * share:.0f} %: {error}")
            continue
        contender = runs.setdefault((engine, share), _Contender(engine, share))
        contender.speeds.append(_llama_speed(answers))
        contender.details = {key: sum(answer[key] for answer in answers) for key in ("n_drafted", "n_accepted")}
        # bf16 sums in another order: a near tie may fall the other way, and the texts part there.
        contender.details["tokens_unlike_ours"] = _count_different(expected, _texts({"answers": answers}), n_tokens)


def _llama(
    setting: SpeculationSetting,
    prompts: Sequence[Sequence[int]],
    n_new: int,
    lookup: str,
    group: MemoryGroup | None,
) -> list[dict[str, Any]]:
    program, model = setting.llama("llama-server"), setting.wide_gguf()
    return continuations(
        program, model, prompts, max_new_tokens=n_new, threads=setting.threads, lookup=lookup, group=group
    )


def _llama_speed(answers: list[dict[str, Any]]) -> float:
    """Over all prompts, the first token of each not counted, as with ours."""
    return sum(len(answer["token_ids"]) - 1 for answer in answers) / sum(answer["decode_s"] for answer in answers)


def _claim(figure: Figure, n_different: int) -> None:
    speeds = {
        entry["engine"]: entry["tokens_per_s"]["median"] for entry in figure.entries if entry["share"] == MAIN_SHARE
    }
    where = f"BAD at a budget of {100 * MAIN_SHARE:.0f} % of the bf16 bytes"
    for peer, target in ((PLAIN, _PLAIN_TARGET), (_LOOKUP, _LLAMA_TARGET)):
        if peer in speeds:
            detail = f"{speeds[BAD]:.2f} over {speeds[peer]:.2f} tokens/s"
            name = "ours without" if peer == PLAIN else "llama.cpp mmap with its n-gram lookup, the same cgroup"
            figure.claim(where, ratio(speeds[BAD], speeds[peer]), ">=", target, peer=name, detail=detail)
    what = "tokens of BAD that differ, every budget and drafter"
    figure.claim(what, float(n_different), "<=", 0.0, peer="plain decoding")


def _print(figure: Figure) -> None:
    print_table(
        ("engine", "budget %", "tokens/s", "tokens a sweep", "drafted", "accepted"),
        [
            [
                entry["engine"],
                100 * entry["share"],
                entry["tokens_per_s"]["median"],
                entry.get("tokens_per_sweep", "-"),
                entry["n_drafted"],
                entry["n_accepted"],
            ]
            for entry in figure.entries
        ],
    )
