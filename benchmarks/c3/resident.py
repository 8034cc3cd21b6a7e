"""Decoding and prefill with every weight in RAM: each codec beside llama.cpp's bf16, f16, Q8_0 and Q4_0 of one model.

Contenders take turns, each in a process of its own; a speed is the median over the turns.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.c3.isolation import run_script
from benchmarks.c3.llama import llama_bench
from benchmarks.c3.report import Figure, MissingPeerError, ratio
from benchmarks.c3.setting import LOSSLESS, Setting, Variant, variants
from benchmarks.machine import print_table, spread
from vortex_engine.c3.directory import open_directory

PEERS = ("BF16", "F16", "Q8_0", "Q4_0")
# `dense` is for disks and downloads: it is not meant to be decoded from RAM.
CODECS = ("exact", "exact12", "raw", "int8", "int4")
_DECODE_TOKENS, _PREFILL_TOKENS = 64, 512
# (our codecs, peer, target) of decoding.
_TARGETS = (
    (("exact", "exact12"), "BF16", 1.35),
    (("exact", "exact12"), "F16", 1.2),
    (("int8",), "Q8_0", 1.25),
    (("int4",), "Q4_0", 1.2),
)
_PREFILL_TARGET = 1.0


def measure(setting: Setting) -> Figure:
    """Let ours and the peers take turns."""
    figure = Figure()
    figure.facts = {"shape": setting.shape, "threads": setting.threads, "bf16_bytes": setting.bf16_bytes()}
    peers = _peers(setting, figure)
    speeds: dict[str, dict[str, list[float]]] = {}
    texts: dict[str, list[int]] = {}
    contenders = variants(CODECS)
    for number in range(setting.rounds(6)):
        # Prefill takes the most time and varies the least: two of the turns.
        prefill = _PREFILL_TOKENS if number < 2 else 0
        for variant in contenders:
            run = _ours(setting, variant, prefill)
            if texts.setdefault(variant.name, run["token_ids"]) != run["token_ids"]:
                raise SystemExit(f"{variant.name}: two runs wrote different texts, nothing is reported")
            _keep(speeds, variant.name, run)
        for kind in list(peers):
            try:
                run = llama_bench(
                    setting.llama("llama-bench"),
                    peers[kind],
                    threads=setting.threads,
                    prefill_tokens=prefill,
                    decode_tokens=_DECODE_TOKENS,
                )
            except MissingPeerError as error:
                figure.skip(f"{kind}: {error}")
                del peers[kind]
                continue
            figure.facts["llama_cpp_build"] = run["build"]
            _keep(speeds, kind, run)
    if len({tuple(ids) for name, ids in texts.items() if name in LOSSLESS}) > 1:
        raise SystemExit("lossless codecs wrote different texts, nothing is reported")
    sizes = {v.name: open_directory(setting.packed(v.codec)).compressed_bytes for v in contenders}
    sizes |= {kind: path.stat().st_size for kind, path in peers.items()}
    for name, kinds in speeds.items():
        entry: dict[str, Any] = {"engine": "vortex" if name in texts else "llama.cpp", "weights": name}
        entry |= {"bytes": sizes.get(name), **{kind: spread(values) for kind, values in kinds.items()}}
        figure.entries.append(entry)
    decode = {name: statistics.median(kinds["decode_tokens_per_s"]) for name, kinds in speeds.items()}
    prefill_speed = {name: statistics.median(kinds["prefill_tokens_per_s"]) for name, kinds in speeds.items()}
    for ours, peer, target in _TARGETS:
        for name in (variant.name for variant in contenders if variant.codec in ours):
            _claim(figure, f"`{name}` decode, all in RAM", decode, name, peer, target)
    for name in (variant.name for variant in contenders if variant.codec in ("exact", "exact12")):
        what = f"`{name}` prefill of {_PREFILL_TOKENS} tokens"
        _claim(figure, what, prefill_speed, name, "BF16", _PREFILL_TARGET)
    print_table(
        ("engine", "weights", "MB", "decode tokens/s", "prefill tokens/s"),
        [
            [entry["engine"], entry["weights"], (entry["bytes"] or 0) / 1e6, decode[name], prefill_speed[name]]
            for entry in figure.entries
            for name in [entry["weights"]]
        ],
    )
    return figure


def _claim(figure: Figure, what: str, speeds: dict[str, float], ours: str, peer: str, target: float) -> None:
    theirs = speeds.get(peer)
    detail = "" if theirs is None else f"{speeds[ours]:.1f} over {theirs:.1f} tokens/s"
    figure.claim(what, ratio(speeds[ours], theirs), ">=", target, peer=f"llama.cpp {peer}", detail=detail)


def _peers(setting: Setting, figure: Figure) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        setting.llama("llama-bench")
        for kind in PEERS:
            found[kind] = setting.gguf(kind)
    except MissingPeerError as error:
        figure.skip(error)
    return found


def _ours(setting: Setting, variant: Variant, prefill_tokens: int) -> dict[str, Any]:
    model = setting.packed(variant.codec)
    job: dict[str, Any] = {
        "model": str(model),
        "budget_bytes": open_directory(model).compressed_bytes,
        "threads": setting.threads,
    }
    job |= {"warm_up_tokens": 3, "decode_tokens": _DECODE_TOKENS, "prefill_tokens": prefill_tokens}
    job["options"] = variant.options
    run = run_script("run_ours.py", job)
    if run["decode"]["bytes_compressed_read"]:
        raise SystemExit(f"{variant.name}: not everything was in RAM, nothing is reported")
    return {**run, "decode_tokens_per_s": run["decode"]["tokens_per_s"]}


def _keep(speeds: dict[str, dict[str, list[float]]], name: str, run: dict[str, Any]) -> None:
    for kind in ("decode_tokens_per_s", "prefill_tokens_per_s"):
        if run.get(kind):
            speeds.setdefault(name, {}).setdefault(kind, []).append(run[kind])
