"""Memory and speed against the length of the context: a V-block model beside a llama of equal size in three engines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.c3.gguf_convert import convert
from benchmarks.c3.isolation import run_alone
from benchmarks.c3.llama import llama_bench
from benchmarks.c3.report import Figure, MissingPeerError
from benchmarks.c3.setting import Setting
from benchmarks.machine import print_table
from benchmarks.vortex.context_models import BLOCK, LLAMA, checkpoint, n_parameters, shape_of

_CONTEXTS = (1024, 4096, 16384, 65536)
_PREFILL, _DECODE = 256, 24
_TIMEOUT_S = 900.0
_LONGEST_LLAMA_CPP = 16384  # it has to read what it has in its cache, in time that grows with the square
_OURS, _SAME_ENGINE = "V-block, this engine", "llama, this engine"
_TORCH, _LLAMA_CPP = "llama, transformers SDPA", "llama, llama.cpp"


def measure(setting: Setting) -> Figure:
    """Each contender in a process of its own, from the shortest context to the longest."""
    figure = Figure()
    contexts = (256, 512) if setting.quick else _CONTEXTS
    sizes = {kind: n_parameters(shape_of(kind, setting.quick)) for kind in (BLOCK, LLAMA)}
    figure.facts = {"threads": setting.threads, "parameters": sizes, "prefill": _PREFILL}
    figure.facts["shapes"] = {kind: shape_of(kind, setting.quick) for kind in sizes}
    figure.facts["made_up"] = "KV caches of all but llama.cpp are filled with random numbers up to the context"
    tag = "quick" if setting.quick else "long"
    sources = {kind: checkpoint(setting.work / f"{kind}-{tag}", kind, setting.quick) for kind in sizes}
    packed = {kind: setting.pack_once(source, f"{kind}-{tag}", "exact") for kind, source in sources.items()}
    jobs = {
        _OURS: ("vortex", packed[BLOCK]),
        _SAME_ENGINE: ("vortex", packed[LLAMA]),
        _TORCH: ("transformers", sources[LLAMA]),
    }
    for name, (engine, model) in jobs.items():
        try:
            figure.entries += _run(setting, name, engine, model, contexts)
        except MissingPeerError as error:
            figure.skip(error)
    figure.entries += _llama_cpp(setting, figure, sources[LLAMA], contexts)
    columns = ("contender", "context", "state_bytes", "peak_rss_bytes", "decode_tokens_per_s", "prefill_tokens_per_s")
    print_table(columns, [[entry.get(column, "") for column in columns] for entry in figure.entries])
    _claim(figure, contexts)
    return figure


def _claim(figure: Figure, contexts: tuple[int, ...]) -> None:
    found = {(entry["contender"], entry["context"]): entry for entry in figure.entries}
    longest, before = (found[_OURS, context] for context in (contexts[-1], contexts[-2]))
    words = f"{longest['state_bytes'] / 1e6:.0f} and {before['state_bytes'] / 1e6:.0f} MB"
    figure.claim(
        f"bytes that a V-block model carries at {contexts[-1]} tokens over those at {contexts[-2]}",
        longest["state_bytes"] / before["state_bytes"],
        "<=",
        1.05,
        detail=words,
    )
    for name in (_SAME_ENGINE, _TORCH):
        peer = found.get((name, contexts[-1]))
        if peer is not None:
            ours, theirs = longest["decode_tokens_per_s"], peer["decode_tokens_per_s"]
            figure.claim(
                f"decoding at {contexts[-1]} tokens, V-block over llama of equal size: times as fast",
                ours / theirs,
                ">=",
                1.0,
                peer=name,
                detail=f"{ours:.0f} and {theirs:.1f} tokens a second",
            )


def _run(setting: Setting, name: str, engine: str, model: Path, contexts: tuple[int, ...]) -> list[dict[str, Any]]:
    job = {"engine": engine, "model": str(model), "contexts": contexts, "prefill": _PREFILL, "decode": _DECODE}
    script = Path(__file__).with_name("run_context.py")
    output = run_alone(
        [sys.executable, str(script), json.dumps(job | {"threads": setting.threads})], timeout_s=_TIMEOUT_S
    )
    return [{"contender": name, **json.loads(line)} for line in output.splitlines() if line.startswith("{")]


def _llama_cpp(setting: Setting, figure: Figure, source: Path, contexts: tuple[int, ...]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    try:
        program, gguf = setting.llama("llama-bench"), source.with_suffix(".gguf")
        if not gguf.is_file():
            convert(source, gguf)
    except MissingPeerError as error:
        figure.skip(error)
        return entries
    shape = json.loads((source / "config.json").read_bytes())
    per_token = shape["num_hidden_layers"] * 2 * shape["num_key_value_heads"] * shape["head_dim"] * 2  # fp16
    for context in contexts:
        if context > _LONGEST_LLAMA_CPP:
            figure.skip(f"llama.cpp at {context} tokens: reading them takes it longer than all else here")
            continue
        try:
            found = llama_bench(
                program,
                gguf,
                threads=setting.threads,
                # Each measurement reads the context again; the longest is read once.
                prefill_tokens=_PREFILL if context < _LONGEST_LLAMA_CPP else 0,
                decode_tokens=_DECODE,
                depth=context,
            )
        except MissingPeerError as error:
            figure.skip(error)
            break
        entries.append({"contender": _LLAMA_CPP, "context": context, "state_bytes": per_token * context, **found})
    return entries
