"""Decoding with a whole model of mamba-130m's shape: milliseconds a token, one token at a time, nothing drafted."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

import vortex_engine as vx
from benchmarks.c3.report import Figure, MissingPeerError
from benchmarks.c3.setting import Setting
from benchmarks.machine import interleaved_timings, print_table
from benchmarks.ssm.model import Step, packed, peer, prompt

_OURS = {"vortex, exact": ("exact", "float"), "vortex, int8": ("int8", "int8"), "vortex, int4": ("int4", "int8")}
_PEERS = {"transformers, fp32": "float32", "transformers, bf16": "bfloat16"}
_TARGET = 8.0
_TOLERANCE = 1e-3  # of the lossless model's logits, relative to their spread
_TURNS, _BURST = 6, 9


def measure(setting: Setting) -> Figure:
    """Time single steps of ours and of transformers on the same weights, in turns."""
    figure = Figure()
    figure.facts = {"threads": setting.threads, "prompt_tokens": len(prompt(setting)), "bytes": {}}
    with ExitStack() as stack:
        steps: dict[str, Step] = {}
        logits: dict[str, np.ndarray] = {}
        for name, (codec, activations) in _OURS.items():
            folder = packed(setting, codec, activations)
            figure.facts["bytes"][name] = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
            steps[name], logits[name] = stack.enter_context(_ours(setting, folder))
        for name, dtype in _PEERS.items():
            try:
                steps[name], logits[name] = stack.enter_context(peer(setting, dtype))
            except MissingPeerError as error:
                figure.skip(error)
        exact = logits["vortex, exact"]
        errors = {name: float(np.abs(row - exact).max() / exact.std()) for name, row in logits.items()}
        if errors.get("transformers, fp32", 0.0) > _TOLERANCE:
            raise SystemExit(f"logits of transformers in fp32 differ, nothing is timed: {errors}")
        taken = interleaved_timings(steps, repeats=setting.rounds(_TURNS), burst=_BURST)
    ms = {name: seconds["median"] * 1e3 for name, seconds in taken.items()}
    for name, seconds in taken.items():
        entry = {"contender": name, "ms": ms[name], "tokens_per_s": 1e3 / ms[name], "error": errors[name]}
        figure.entries.append({**entry, "times_ours": ms[name] / ms["vortex, exact"], "seconds": seconds})
    columns = ("contender", "ms", "tokens_per_s", "times_ours", "error")
    print_table(columns, [[entry[column] for column in columns] for entry in figure.entries])
    for ours in _OURS:
        for name in _PEERS:
            if name in ms:
                detail = f"{ms[ours]:.1f} and {ms[name]:.0f} ms a token"
                figure.claim(
                    f"decode, {ours}: times as fast", ms[name] / ms[ours], ">=", _TARGET, peer=name, detail=detail
                )
    return figure


@contextmanager
def _ours(setting: Setting, folder: Path) -> Generator[tuple[Step, np.ndarray]]:
    ids = prompt(setting)
    with vx.load(folder, threads=setting.threads) as model:
        logits = model.logits(ids)[-1].copy()
        stream = model.stream(ids, max_new_tokens=10_000, ignore_eos=True, speculate="off")

        def step() -> int:
            piece = next(stream)
            return piece.token_ids[-1]

        step()  # the prompt
        yield step, logits
