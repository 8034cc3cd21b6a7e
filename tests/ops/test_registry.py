from __future__ import annotations

import subprocess
import sys

import pytest

from vortex_engine import _native, errors, ops
from vortex_engine.ops import reference, registry


def test_every_op_has_a_reference_and_a_native_implementation():
    for op in registry.OPS:
        assert [impl.backend for impl in ops.implementations(op)][:2] == ["cpu", "reference"]
        assert op in reference.__all__ and op in ops.__all__
    assert all(impl.backend in (*registry.BACKENDS, *registry.DEVICE_BACKENDS) for impl in ops.implementations())


def test_select_takes_the_fastest_or_the_forced_one():
    assert ops.select("attend").name == "attend.cpu"
    assert ops.select("attend", "reference").name == "attend.reference"
    with pytest.raises(ValueError, match="'matmul'"):
        ops.select("matmul")


def test_a_choice_that_cannot_run_says_why():
    with pytest.raises(errors.BackendUnavailableError, match="'cuda' is unknown"):
        ops.select("attend", "cuda")
    with pytest.raises(errors.BackendUnavailableError, match="'sse9' is not available here"):
        ops.make_context(simd="sse9", backend="cpu")
    with pytest.raises(errors.BackendUnavailableError, match="has no SIMD levels"):
        ops.make_context(simd="scalar", backend="reference")


def test_environment_forces(monkeypatch):
    monkeypatch.delenv("VORTEX_BACKEND", raising=False)
    for level in _native.simd_levels():
        monkeypatch.setenv("VORTEX_SIMD", level)
        assert ops.make_context(threads=1).simd == level
    monkeypatch.setenv("VORTEX_SIMD", "mmx")
    with pytest.raises(errors.BackendUnavailableError, match="mmx"):
        ops.make_context(threads=1)
    monkeypatch.delenv("VORTEX_SIMD")
    monkeypatch.setenv("VORTEX_BACKEND", "reference")
    assert ops.make_context(threads=1).backend == "reference"
    assert type(ops.make_pager(ops.make_context(threads=1), 0)).__name__ == "ReferencePager"
    monkeypatch.setenv("VORTEX_BACKEND", "triton")
    with pytest.raises(errors.BackendUnavailableError, match="triton"):
        ops.make_context(threads=1)


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_thread_count_is_checked(threads):
    with pytest.raises(ValueError, match=rf"\[make_context\] threads .*got {threads}"):
        ops.make_context(threads=threads)


def test_context_says_what_it_is():
    ctx = ops.make_context(threads=3, simd="scalar", backend="cpu")
    assert (ctx.threads, ctx.simd, ctx.backend) == (3, "scalar", "cpu")
    assert repr(ctx) == "OpContext(backend='cpu', simd='scalar', threads=3)"


def test_ops_on_numpy_never_import_torch():
    code = (
        "import sys, numpy as np; from vortex_engine import ops; c = ops.make_context(threads=1);"
        "ops.swiglu(c, np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
