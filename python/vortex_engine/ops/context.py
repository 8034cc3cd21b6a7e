"""What ops run on: a backend, a SIMD level and a number of threads, chosen once and passed to every call."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from vortex_engine.ops import cpu, registry
from vortex_engine.ops.reference_pager import ReferencePager
from vortex_engine.profile import n_cores

__all__ = ["OpContext", "make_context", "make_pager"]

MAX_THREADS = 1024


class OpContext:
    """A chosen backend with its threads. Made by `make_context`; safe to share between threads, ops run one at a time.

    Attributes:
        backend: `cpu` or `reference`.
        simd: the SIMD level of the kernels; None on the reference backend.
        threads: worker threads, the caller's included.
        pool: the native pool, None on the reference backend.
        table: op name -> the function of the op's own arguments.
    """

    __slots__ = ("__weakref__", "backend", "pool", "simd", "table", "threads")

    def __init__(
        self, backend: str, simd: str | None, threads: int, pool: Any, table: Mapping[str, Callable[..., Any]]
    ):
        self.backend = backend
        self.simd = simd
        self.threads = threads
        self.pool = pool
        self.table = table

    def __repr__(self) -> str:
        return f"OpContext(backend={self.backend!r}, simd={self.simd!r}, threads={self.threads})"


def make_context(threads: int | None = None, simd: str | None = None, backend: str | None = None) -> OpContext:
    """Chooses what ops run on.

    Args:
        threads: None means the cores this process may use.
        simd: None means `VORTEX_SIMD`, or else the fastest level of this machine.
        backend: None means `VORTEX_BACKEND`, or else the fastest that can run.

    Raises:
        BackendUnavailableError: a chosen backend or SIMD level cannot run here.
        ValueError: threads is not from 1 to 1024.
    """
    threads = n_cores() if threads is None else threads
    if not 1 <= threads <= MAX_THREADS:
        raise ValueError(f"[make_context] threads must be from 1 to {MAX_THREADS}, got {threads}")
    simd = simd or os.environ.get("VORTEX_SIMD") or None
    backend = backend or os.environ.get("VORTEX_BACKEND") or None
    chosen = {op: registry.select(op, backend, simd) for op in registry.OPS}
    name = chosen["paged_linear"].backend
    pool = cpu.make_pool(threads, simd) if name == "cpu" else None
    table = {op: impl.bind(pool) for op, impl in chosen.items()}
    return OpContext(name, pool.simd if pool else None, threads, pool, table)


def make_pager(
    ctx: OpContext, budget_bytes: int, policy: str = "stable", prefetch_depth: int = 8, io_threads: int = 8
) -> Any:
    """A pager whose matrices the ops of `ctx` read: the native one, or the reference backend's with its methods."""
    pager = cpu.Pager if ctx.backend == "cpu" else ReferencePager
    return pager(budget_bytes, policy, prefetch_depth, io_threads)
