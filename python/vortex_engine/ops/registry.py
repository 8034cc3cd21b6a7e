"""Which implementations an op has: the table that dispatch, tests, benchmarks and `vortex doctor` iterate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vortex_engine.errors import BackendUnavailableError
from vortex_engine.ops import cpu, reference, triton

__all__ = ["BACKENDS", "DEVICE_BACKENDS", "OPS", "Impl", "implementations", "select"]

OPS = (
    "paged_linear",
    "paged_linear_transposed",
    "embed_rows",
    "rms_norm",
    "rope_table",
    "rope",
    "kv_append",
    "kv_move",
    "attend",
    "swiglu",
    "token_surprises",
    "entropies",
    "rms_norm_gradient",
    "swiglu_gradient",
    "ssm_scan",
    "ssm_scan_gradient",
    "causal_conv1d",
    "causal_conv1d_gradient",
    "lava_search",
    "lava_read",
    "decoder_layer",
    "bad_verify",
    "tile_decode",
    "tile_encode",
)
BACKENDS = ("cpu", "reference")  # that have every op; fastest first
DEVICE_BACKENDS = ("triton",)  # that have some ops and take weights from device memory; only by name


@dataclass(frozen=True)
class Impl:
    """One implementation of an op.

    `supports(simd)` is None, or the reason why it cannot run here at that SIMD level (None: any level).
    `bind(pool)` gives the function of the op's own arguments.
    """

    op: str
    backend: str
    supports: Callable[[str | None], str | None]
    bind: Callable[[Any], Callable[..., Any]]

    @property
    def name(self) -> str:
        return f"{self.op}.{self.backend}"


def _reference_bind(function: Callable[..., Any]) -> Callable[[Any], Callable[..., Any]]:
    return lambda pool: function


def _reference_supports(simd: str | None) -> str | None:
    return None if simd is None else f"the reference backend has no SIMD levels, {simd} was forced"


def _table() -> dict[str, tuple[Impl, ...]]:
    return {
        op: (
            Impl(op, "cpu", cpu.supports, cpu.BINDERS[op]),
            Impl(op, "reference", _reference_supports, _reference_bind(getattr(reference, op))),
            *([Impl(op, "triton", triton.supports, triton.BINDERS[op])] if op in triton.BINDERS else []),
        )
        for op in OPS
    }


_IMPLS = _table()


def implementations(op: str | None = None) -> tuple[Impl, ...]:
    """The implementations of `op`, fastest first; of every op when None."""
    if op is None:
        return tuple(impl for impls in _IMPLS.values() for impl in impls)
    if op not in _IMPLS:
        raise ValueError(f"[ops] op must be one of {', '.join(OPS)}, got {op!r}")
    return _IMPLS[op]


def select(op: str, backend: str | None = None, simd: str | None = None) -> Impl:
    """The fastest implementation of `op` that can run, or the one of a forced backend.

    Raises:
        BackendUnavailableError: the forced backend or SIMD level cannot run here; the message says why.
    """
    known = (*BACKENDS, *DEVICE_BACKENDS)
    if backend is not None and backend not in known:
        raise BackendUnavailableError(f"backend {backend!r} is unknown; there are {', '.join(known)}")
    reasons: list[str] = []
    for impl in implementations(op):
        if impl.backend != backend and (backend is not None or impl.backend in DEVICE_BACKENDS):
            continue
        reason = impl.supports(simd)
        if reason is None:
            return impl
        reasons.append(f"{impl.name}: {reason}")
    raise BackendUnavailableError("; ".join(reasons) or f"{op} has no {backend} implementation")
