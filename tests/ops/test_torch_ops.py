from __future__ import annotations

import gc

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[test]'")

import torch

from vortex_engine import ops
from vortex_engine.ops import reference
from vortex_engine.ops.schema import id_of

RNG = np.random.default_rng(11)
HEADS, KV_HEADS, DIM, CAPACITY, TOKENS, POS = 4, 2, 24, 40, 5, 20


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def calls() -> dict[str, tuple[np.ndarray | int | float, ...]]:
    caches = np.zeros((2, KV_HEADS, CAPACITY, 32), np.float32)
    caches[..., :DIM] = array(2, KV_HEADS, CAPACITY, DIM)
    cos, sin = reference.rope_table(np.arange(TOKENS), 0.5 ** np.arange(DIM / 2))
    return {
        "rms_norm": (array(3, 40), array(40), 1e-6),
        "rope": (array(TOKENS, HEADS, DIM), cos, sin),
        "attend": (array(TOKENS, HEADS, DIM), caches[0], caches[1], POS, 7, 0.25),
        "swiglu": (array(3, 40), array(3, 40)),
        "token_surprises": (array(3, 40), np.array([0, 39, 7])),
        "entropies": (array(3, 40),),
        "bad_verify": (np.array([3, 1]), array(3, 40), 0.8, 5, 0.9, 0.01, -7, 11),
        "kv_append": (array(TOKENS, KV_HEADS, DIM), array(TOKENS, KV_HEADS, DIM), caches[0], caches[1], POS),
        "kv_move": (caches[0], caches[1], POS + 3, POS),
    }


def to_torch(arguments):
    return [torch.from_numpy(a.copy()) if isinstance(a, np.ndarray) else a for a in arguments]


@pytest.mark.parametrize("op", ["rms_norm", "rope", "attend", "swiglu", "token_surprises", "entropies"])
def test_tensors_get_the_bits_of_arrays(ctx, op):
    arguments = calls()[op]
    tensors = to_torch(arguments)
    out = getattr(ops, op)(ctx, *tensors)
    assert isinstance(out, torch.Tensor)
    np.testing.assert_array_equal(out.numpy(), getattr(ops, op)(ctx, *arguments))


def test_append_writes_the_tensors_in_place(ctx):
    arguments = calls()["kv_append"]
    tensors = to_torch(arguments)
    ops.kv_append(ctx, *tensors)
    ops.kv_append(ctx, *arguments)
    np.testing.assert_array_equal(tensors[2].numpy(), arguments[2])
    np.testing.assert_array_equal(tensors[3].numpy(), arguments[3])


@pytest.mark.parametrize("seed", [5, 2**64 - 7])
def test_verdicts_on_tensors_are_those_on_arrays(ctx, seed):
    drafts, logits = np.array([3, 1]), array(3, 40)
    for law in (ops.SamplingLaw(), ops.SamplingLaw(0.8, 5, 0.9, 0.01)):
        wanted = ops.bad_verify(ctx, drafts, logits, law, seed, 11)
        assert ops.bad_verify(ctx, torch.from_numpy(drafts), torch.from_numpy(logits), law, seed, 11) == wanted


def test_move_writes_the_tensors_in_place(ctx):
    arguments = calls()["kv_move"]
    k_cache, v_cache = to_torch(arguments[:2])
    ops.kv_move(ctx, k_cache, v_cache, *arguments[2:])
    ops.kv_move(ctx, *arguments)
    np.testing.assert_array_equal(k_cache.numpy(), arguments[0])
    np.testing.assert_array_equal(v_cache.numpy(), arguments[1])


def test_paged_ops_on_tensors(ctx, pack_matrix):
    pager, handle = pack_matrix(65, 40).open(ctx)
    x, bias, ids = array(3, 40), array(65), np.array([3, 64], np.int64)
    wanted = ops.paged_linear(ctx, pager, [handle, handle], x, [None, bias])
    got = ops.paged_linear(ctx, pager, [handle, handle], torch.from_numpy(x), [None, torch.from_numpy(bias)])
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a.numpy(), b)
    wanted = ops.paged_linear(ctx, pager, [handle], x, [bias], planes="prefix")[0]
    got = ops.paged_linear(ctx, pager, [handle], torch.from_numpy(x), [torch.from_numpy(bias)], planes="prefix")[0]
    np.testing.assert_array_equal(got.numpy(), wanted)
    turned = array(3, 65)
    wanted = ops.paged_linear_transposed(ctx, pager, handle, turned)
    got = ops.paged_linear_transposed(ctx, pager, handle, torch.from_numpy(turned))
    np.testing.assert_array_equal(got.numpy(), wanted)
    rows = ops.embed_rows(ctx, pager, handle, torch.from_numpy(ids))
    np.testing.assert_array_equal(rows.numpy(), ops.embed_rows(ctx, pager, handle, ids))
    rows = ops.embed_rows(ctx, pager, handle, torch.from_numpy(ids), planes="prefix")
    np.testing.assert_array_equal(rows.numpy(), ops.embed_rows(ctx, pager, handle, ids, planes="prefix"))
    pager.close()


@pytest.mark.parametrize("op", list(calls()))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it traces
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_opcheck(op):
    ctx = ops.make_context(threads=1, backend="cpu")
    torch.library.opcheck(getattr(torch.ops.vortex, op).default, (*to_torch(calls()[op]), id_of(ctx)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as above
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_opcheck_of_paged_ops(pack_matrix):
    ctx = ops.make_context(threads=1, backend="cpu")
    pager, handle = pack_matrix(65, 40).open(ctx)
    x, bias, ids = torch.from_numpy(array(3, 40)), torch.from_numpy(array(65)), torch.tensor([3, 64])
    end = (id_of(pager), id_of(ctx))
    linear, embed = torch.ops.vortex.paged_linear.default, torch.ops.vortex.embed_rows.default
    torch.library.opcheck(linear, (x, [bias, None], [handle, handle], [65, 65], *end))
    torch.library.opcheck(
        torch.ops.vortex.paged_linear_transposed.default, (torch.from_numpy(array(3, 65)), handle, 40, *end)
    )
    torch.library.opcheck(embed, (ids, handle, 40, *end))
    torch.library.opcheck(linear, (x, [bias], [handle], [65], *end, "float", "prefix"))
    torch.library.opcheck(embed, (ids, handle, 40, *end, "prefix"))
    pager.close()


def test_ids_die_with_their_owner():
    ctx = ops.make_context(threads=1, backend="cpu")
    number = id_of(ctx)
    assert number == id_of(ctx)
    del ctx
    gc.collect()
    x = torch.zeros(1, 4)
    with pytest.raises(ValueError, match=f"ctx must be the id of one that is alive, got {number}"):
        torch.ops.vortex.swiglu(x, x, number)


def test_bad_tensors_are_named(ctx):
    with pytest.raises(ValueError, match=r"\[rms_norm\] x must be .*float32"):
        ops.rms_norm(ctx, torch.zeros(2, 4, dtype=torch.float64), torch.ones(4), 1e-6)
    with pytest.raises(ValueError, match=r"\[rms_norm\] x .*ontiguous"):
        ops.rms_norm(ctx, torch.zeros(4, 2).T, torch.ones(4), 1e-6)


def test_reference_agrees_with_torch():
    """The specification itself, checked against an independent implementation in float64."""
    x, weight, eps = calls()["rms_norm"]
    wanted = torch.nn.functional.rms_norm(torch.from_numpy(x).double(), (40,), torch.from_numpy(weight).double(), eps)
    np.testing.assert_allclose(reference.rms_norm(x, weight, eps), wanted.numpy(), rtol=1e-6)

    gate, up = calls()["swiglu"]
    wanted = torch.nn.functional.silu(torch.from_numpy(gate).double()) * torch.from_numpy(up).double()
    np.testing.assert_allclose(reference.swiglu(gate, up), wanted.numpy(), rtol=1e-6)

    q, k_cache, v_cache, pos, window, scale = calls()["attend"]
    group = HEADS // KV_HEADS
    q64, k64, v64 = (torch.from_numpy(a).double() for a in (q, k_cache[..., :DIM], v_cache[..., :DIM]))
    positions = torch.arange(CAPACITY)
    ends = torch.arange(pos, pos + TOKENS)[:, None]
    mask = (positions <= ends) & (positions > ends - window)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        q64.transpose(0, 1), k64.repeat_interleave(group, 0), v64.repeat_interleave(group, 0), mask, scale=scale
    ).transpose(0, 1)
    np.testing.assert_allclose(
        reference.attend(q, k_cache, v_cache, pos, window, scale), wanted.numpy(), rtol=1e-5, atol=1e-6
    )
