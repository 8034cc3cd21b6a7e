"""The KV state counts what is in use and takes no memory before that."""

from __future__ import annotations

import pytest

from vortex_engine.state import KVState


def test_shapes_and_bytes() -> None:
    state = KVState(n_layers=3, n_kv_heads=2, head_dim=20, capacity=7)
    assert [keys.shape for keys, _ in state.layers] == [(2, 7, 32)] * 3
    assert state.n_bytes == 0
    state.length = 5
    assert state.n_bytes == 3 * 2 * 2 * 5 * 32 * 4
    assert state.capacity == 7


def test_a_large_context_takes_no_memory_until_it_is_used() -> None:
    resource = pytest.importorskip("resource", reason="limits memory by the resource module: needs a Unix")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    state = KVState(n_layers=4, n_kv_heads=8, head_dim=128, capacity=65536)  # 2 GiB when full
    for keys, values in state.layers:
        keys[:, :16] = values[:, :16] = 1.0
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * 1024  # KiB on Linux; bytes elsewhere, where the bound is only stricter
