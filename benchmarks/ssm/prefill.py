"""The scan of a prompt, Mamba-1: D = 1536, N = 16, 2048 steps with D, z, delta_bias and softplus."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from benchmarks.c3.report import Figure, MissingPeerError
from benchmarks.c3.setting import Setting
from benchmarks.machine import print_table
from benchmarks.ssm.problem import ERROR_TARGET, Contender, add_entries, random_layer, scan, timed
from benchmarks.ssm.roofline import exp2_rate, roofline
from benchmarks.ssm.scalar_scan import scalar_scan
from benchmarks.ssm.torch_scans import parallel_scan, step_by_step
from vortex_engine import ops

OURS, ROWS = "vortex", "vortex, rows of time"
# Peer -> how many times as fast ours must be.
TARGETS = {"torch, step by step": 60.0, "mambapy pscan": 15.0, "C with expf, -O3": 8.0}


def measure(setting: Setting) -> Figure:
    """Time ours and its peers on the same arrays."""
    figure = Figure()
    ctx = ops.make_context(setting.threads)
    channels, n_state, length = (96, 16, 65) if setting.quick else (1536, 16, 2048)
    layer = random_layer(channels=channels, n_state=n_state, length=length)
    figure.facts = {"threads": ctx.threads, "simd": ctx.simd}
    figure.facts |= {"channels": channels, "n_state": n_state, "length": length}
    wanted = scan(ops.make_context(threads=1, backend="reference"), layer)
    contenders: dict[str, Contender] = {
        OURS: functools.partial(scan, ctx, layer),
        ROWS: functools.partial(scan, ctx, layer.rows_of_time()),
    }
    peers: dict[str, Callable[[], Contender]] = {
        "torch, step by step": lambda: step_by_step(layer, ctx.threads),
        "mambapy pscan": lambda: parallel_scan(layer, ctx.threads),
        "C with expf, -O3": lambda: scalar_scan(layer, ctx.threads, ("-O3", "-march=native")),
        "C, -Ofast (vector expf)": lambda: scalar_scan(layer, ctx.threads, ("-Ofast", "-march=native")),
    }
    for name, make in peers.items():
        try:
            contenders[name] = make()
        except MissingPeerError as error:
            figure.skip(error)
    found = timed(contenders, wanted, repeats=setting.rounds(9), burst=3)
    add_entries(figure, {}, found, OURS)
    ms: dict[str, float] = {name: one["seconds"]["median"] * 1e3 for name, one in found.items()}
    for peer, target in TARGETS.items():
        if peer in ms:
            figure.claim(
                f"scan of {length} steps, {channels} channels, {n_state} states: times as fast",
                ms[peer] / ms[OURS],
                ">=",
                target,
                peer=peer,
                detail=f"{ms[OURS]:.1f} and {ms[peer]:.0f} ms",
            )
    figure.claim(
        "largest error of the scan over what mamba's tests allow",
        max(found[OURS]["error"], found[ROWS]["error"]),
        "<=",
        ERROR_TARGET,
        peer="float64",
    )
    bound = exp2_rate(ctx)
    lines: dict[str, dict[str, Any]] = {
        name: roofline(ms[name] / 1e3, layer.n_exps, layer.n_bytes, bound, setting.machine) for name in (OURS, ROWS)
    }
    figure.facts["roofline"] = lines
    print_table(("roofline", *lines[OURS]), [[name, *line.values()] for name, line in lines.items()])
    return figure
