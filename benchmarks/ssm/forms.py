"""The scan of a prompt, Mamba-2: heads of 64 channels with one decay each, N = 128, 2048 steps with D and softplus."""

from __future__ import annotations

import functools
from collections.abc import Callable

from benchmarks.c3.report import Figure, MissingPeerError
from benchmarks.c3.setting import Setting
from benchmarks.ssm.problem import ERROR_TARGET, Contender, add_entries, random_layer, scan, timed
from benchmarks.ssm.torch_scans import chunked, head_loop
from vortex_engine import ops

OURS = "vortex"


def measure(setting: Setting) -> Figure:
    """Time ours and its peers on the same values; the forms have no target."""
    figure = Figure()
    ctx = ops.make_context(setting.threads)
    channels, n_state, length = (128, 16, 65) if setting.quick else (1536, 128, 2048)
    n_heads = channels // 64
    layer = random_layer(channels=channels, n_state=n_state, length=length, heads=n_heads, gated=False)
    figure.facts = {"threads": ctx.threads, "simd": ctx.simd, "channels": channels, "n_heads": n_heads}
    figure.facts |= {"n_state": n_state, "length": length}
    wanted = scan(ops.make_context(threads=1, backend="reference"), layer)
    contenders: dict[str, Contender] = {
        OURS: functools.partial(scan, ctx, layer),
        "vortex, rows of time": functools.partial(scan, ctx, layer.rows_of_time()),
    }
    peers: dict[str, Callable[[], Contender]] = {
        "transformers, in chunks": lambda: chunked(layer, ctx.threads),
        "torch, step by step": lambda: head_loop(layer, ctx.threads),
    }
    for name, make in peers.items():
        try:
            contenders[name] = make()
        except MissingPeerError as error:
            figure.skip(error)
    found = timed(contenders, wanted, repeats=setting.rounds(7), burst=3)
    add_entries(figure, {}, found, OURS)
    figure.claim(
        "largest error of the scan with heads over what mamba's tests allow",
        max(found[name]["error"] for name in found if name.startswith(OURS)),
        "<=",
        ERROR_TARGET,
        peer="float64",
    )
    steps = length * channels * n_state
    figure.facts["gstates_s"] = steps / found[OURS]["seconds"]["median"] / 1e9
    print(f"{figure.facts['gstates_s']:.2f} G states x steps a second")
    return figure
