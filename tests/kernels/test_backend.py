"""The triton backend in the registry, and its kernels through Triton's compiler for real GPUs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from vortex_engine.kernels import support

from vortex_engine import errors, ops

REASON = support.reason_against()
NEEDS_TRITON = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def run(code: str, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=clean | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_registry_lists_the_kernels_and_never_chooses_them_itself():
    listed = {impl.name for impl in ops.implementations() if impl.backend == "triton"}
    kernels = ("bad_verify", "causal_conv1d", "paged_linear", "ssm_scan", "tile_decode")
    assert listed == {f"{op}.triton" for op in kernels}
    assert ops.select("tile_decode").backend == "cpu"
    with pytest.raises(errors.BackendUnavailableError, match="has no SIMD levels, avx2 was forced"):
        ops.select("tile_decode", "triton", "avx2")
    with pytest.raises(errors.BackendUnavailableError, match="attend has no triton implementation"):
        ops.select("attend", "triton")


@pytest.mark.parametrize("missing", ["torch", "triton"])
def test_a_missing_package_is_named(monkeypatch, missing):
    monkeypatch.setattr(support, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(errors.BackendUnavailableError, match=rf"{missing} is not installed: pip install"):
        ops.select("tile_decode", "triton")


@pytest.mark.parametrize(("least", "what"), [("MIN_INTERPRETER", "its interpreter"), ("MIN_TRITON", "these kernels")])
@NEEDS_TRITON
def test_an_old_triton_is_named(monkeypatch, least, what):
    monkeypatch.setenv("TRITON_INTERPRET", "1" if least == "MIN_INTERPRETER" else "0")
    monkeypatch.setattr(support, least, (99, 0))
    with pytest.raises(errors.BackendUnavailableError, match=rf"triton [\d.]+ is too old for {what}: .*triton>=99.0"):
        ops.select("tile_decode", "triton")


@NEEDS_TRITON
def test_forced_without_a_gpu_says_why():
    code = (
        "from vortex_engine import errors, ops\n"
        "try: ops.make_context(threads=1)\n"
        "except errors.BackendUnavailableError as error: print(error)\n"
    )
    wanted = "there is no CUDA device" if support.interpreted() else "has no triton implementation"
    assert wanted in run(code, VORTEX_BACKEND="triton")
    assert "has no triton implementation" in run(code, VORTEX_BACKEND="triton", TRITON_INTERPRET="1")


def test_the_base_package_loads_neither_torch_nor_triton():
    code = (
        "import sys; from vortex_engine import ops; import vortex_engine.kernels.support; "
        "ops.make_context(threads=1); print([name for name in ('torch', 'triton') if name in sys.modules])"
    )
    assert run(code) == "[]"


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vortex_engine.kernels.bad_verify import choose_kernel
from vortex_engine.kernels.causal_conv1d import causal_conv1d_kernel
from vortex_engine.kernels.paged_linear import SEGMENT_COLS, partial_kernel, sum_kernel
from vortex_engine.kernels.ssm_scan import ssm_scan_kernel
from vortex_engine.kernels.tile_decode import tile_decode_kernel

TYPES = dict(p_arena="*u8", p_strips="*i64", p_first_strip="*i32", p_starts="*i32", p_x="*fp32", p_partial="*fp32",
             p_bias="*fp32", p_out="*fp32")
FIELDS = dict(FIELDS=9, FIELD_COL0=6, FIELD_N_COLS=7, FIELD_VARIANT=8)

def ptx(kernel, sm, types=TYPES, **constants):
    kinds = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    source = ASTSource(kernel, kinds, constants)
    return triton.compile(source, target=GPUTarget("cuda", sm, 32), options={"enable_fp_fusion": False}).asm["ptx"]

ptx(tile_decode_kernel, 80, TYPES | {"p_out": "*i16"}, CODEC=1, DTYPE=1, FIELDS=9, BLOCKS=8)
every = 1 << 1 | 1 << 5 | 1 << 11 | 1 << 15
for sm, variants in ((80, every), (90, 1 << 5)):
    bits = dict(VARIANTS=variants, VARIANT_LIMIT=variants.bit_length())
    text = ptx(partial_kernel, sm, BLOCK_M=16, SEGMENT=SEGMENT_COLS, **bits, **FIELDS)
    assert "fma.rn.f32" in text and ".ftz" not in text
assert "add.rn.f32" in ptx(sum_kernel, 80, HAS_BIAS=True, BLOCK_N=128)
types = dict(p_logits="*fp32", p_law="*fp64", p_place="*i64", p_out="*i64")
for law in ((True, False, False), (False, True, True)):
    ptx(choose_kernel, 80, types, BLOCK=1024, **dict(zip(("IS_GREEDY", "HAS_TOP_K", "HAS_TOP_P"), law)))
for value, yes in (("*fp32", True), ("*bf16", False)):
    types = {name: value for kernel in (ssm_scan_kernel, causal_conv1d_kernel) for name in kernel.arg_names
             if name.startswith("p_")} | {"p_ends": "*i64", "p_slots": "*i64"}
    shared = ("HAS_BIAS", "HAS_INITIAL", "HAS_LAST", "IS_PACKED", "IS_POOLED")
    scan = dict.fromkeys(("CONSTANT_B", "HAS_D", "HAS_Z", "SOFTPLUS", *shared), yes)
    scan |= dict(HAS_HEADS=not yes, CONSTANT_C=False, LANES=16, BLOCK_D=64, BLOCK_N=16)
    text = ptx(ssm_scan_kernel, 80, types, **scan)
    assert "fma.rn.f32" in text and ("bar.sync" in text or not yes)
    conv = dict.fromkeys(("SILU", *shared), yes) | dict(BLOCK_D=64, BLOCK_T=32, BLOCK_W=4)
    text = ptx(causal_conv1d_kernel, 80, types, **conv)
    assert "fma.rn.f32" in text and ("bar.sync" in text or not yes)
print("compiled")
"""


@NEEDS_TRITON
def test_kernels_compile_for_gpus(tmp_path):
    """Needs no GPU; says that the kernels compile to machine code and fuse only what is written fused."""
    assert run(COMPILE, TRITON_CACHE_DIR=str(tmp_path)) == "compiled"
