"""The Triton backend: kernels over tiles in device memory, which are imported when an op of theirs is first bound.

It takes weights from device memory (`vortex_engine.kernels.resident`), not from a host pager, so it is never chosen
unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["BINDERS", "supports"]


def supports(simd: str | None) -> str | None:
    """None, or the reason why the Triton kernels cannot run here."""
    if simd is not None:
        return f"the triton backend has no SIMD levels, {simd} was forced"
    return import_module("vortex_engine.kernels.support").reason_against()


def _from(module: str, name: str) -> Callable[[Any], Callable[..., Any]]:
    return lambda pool: getattr(import_module(f"vortex_engine.{module}"), name)


BINDERS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "bad_verify": _from("kernels.bad_verify", "bad_verify_arrays"),
    "causal_conv1d": _from("ops.triton_recurrent", "causal_conv1d"),
    "paged_linear": _from("kernels.resident", "paged_linear_arrays"),
    "ssm_scan": _from("ops.triton_recurrent", "ssm_scan"),
    "tile_decode": _from("kernels.tile_decode", "decode_bytes"),
}
