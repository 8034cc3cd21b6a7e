"""One step of decoding, Mamba-1: D = 1536, N = 16, state and A in blocks of 16 channels or as mamba has them."""

from __future__ import annotations

import numpy as np

from benchmarks.c3.report import Figure, MissingPeerError
from benchmarks.c3.setting import Setting
from benchmarks.machine import print_table
from benchmarks.ssm.problem import ERROR_TARGET, F32, Contender, Layer, add_entries, random_layer, timed
from benchmarks.ssm.roofline import exp2_rate, roofline
from benchmarks.ssm.torch_scans import state_update
from vortex_engine import ops

BLOCKED, PLAIN, TORCH = "vortex, in blocks", "vortex", "torch"
_TARGET = 20.0


def measure(setting: Setting) -> Figure:
    """Time a step for a batch of 1 and of 8."""
    figure = Figure()
    ctx = ops.make_context(setting.threads)
    channels, n_state = (96, 16) if setting.quick else (1536, 16)
    figure.facts = {"threads": ctx.threads, "simd": ctx.simd, "channels": channels, "n_state": n_state, "roofline": {}}
    bound = exp2_rate(ctx)
    for batch in (1, 8):
        layer = random_layer(batch=batch, channels=channels, n_state=n_state, length=1)
        start = np.random.default_rng(1).standard_normal((batch, channels, n_state), np.float32)
        wanted = _step(ops.make_context(threads=1, backend="reference"), layer, layer.A, start.copy())()
        contenders: dict[str, Contender] = {
            BLOCKED: _step(ctx, layer, ops.scan_blocks(layer.A), ops.scan_blocks(start)),
            PLAIN: _step(ctx, layer, layer.A, start.copy()),
        }
        try:
            contenders[TORCH] = state_update(layer, start, ctx.threads)
        except MissingPeerError as error:
            figure.skip(error)
        found = timed(contenders, wanted, repeats=setting.rounds(15), burst=10 if setting.quick else 200)
        add_entries(figure, {"batch": batch}, found, BLOCKED)
        us = {name: one["seconds"]["median"] * 1e6 for name, one in found.items()}
        if TORCH in us:
            figure.claim(
                f"step of {channels} channels and {n_state} states, batch {batch}: times as fast",
                us[TORCH] / us[BLOCKED],
                ">=",
                _TARGET,
                peer="torch, state updated in place",
                detail=f"{us[BLOCKED]:.1f} and {us[TORCH]:.0f} µs; {us[PLAIN]:.1f} with the state as mamba has it",
            )
        figure.claim(
            f"largest error of a step over what mamba's tests allow, batch {batch}",
            max(found[BLOCKED]["error"], found[PLAIN]["error"]),
            "<=",
            ERROR_TARGET,
            peer="float64",
        )
        n_bytes = layer.n_bytes + 2 * start.nbytes
        line = roofline(us[BLOCKED] / 1e6, layer.n_exps, n_bytes, bound, setting.machine)
        figure.facts["roofline"][str(batch)] = line
        print_table(("roofline", *line), [[f"batch {batch}", *line.values()]])
    return figure


def _step(ctx: ops.OpContext, layer: Layer, rates: F32, state: F32) -> Contender:
    """A step from `state`, which it updates in place."""
    assert layer.z is not None
    x, delta, b, c, gate = (value[..., 0].copy() for value in (layer.u, layer.delta, layer.B, layer.C, layer.z))

    def run() -> F32:
        return ops.ssm_step(ctx, state, x, delta, rates, b, c, layer.D, gate, layer.delta_bias, True)

    return run
