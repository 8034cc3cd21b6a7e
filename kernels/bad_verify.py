"""bad_verify over logits in device memory: one program chooses the token of one row, the host walks the draft.

Thresholds of top-k and top-p are found four bits at a time, by counting ids or adding integer weights above sixteen
candidates: eight passes over the row each, without sorting. exp and log of float64 are the device's own, within an ulp
or two of other backends': scores would have to agree in 15 digits for an id to differ.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from vortex_engine.kernels.launch import check_device, launch
from vortex_engine.kernels.tiles import device

from vortex_engine.errors import VortexError

if TYPE_CHECKING:
    from vortex_engine.ops.sampling_law import SamplingLaw

__all__ = ["bad_verify", "bad_verify_arrays", "choose_kernel"]

GAMMA = tl.constexpr(0x9E3779B97F4A7C15)
MIX_1 = tl.constexpr(0xBF58476D1CE4E5B9)
MIX_2 = tl.constexpr(0x94D049BB133111EB)
INFINITY_KEY = tl.constexpr(0x7F800000)
NAN_KEY = tl.constexpr(0x7FFFFFFF)
MAX_BLOCK = 1024
MAX_INVERSE = 1e260
MAX_VOCAB = 2**22


@triton.jit
def _mix(bits):
    """The finalizer of SplitMix64 (doi 10.1145/2714064.2660195)."""
    bits = (bits ^ (bits >> 30)) * MIX_1
    bits = (bits ^ (bits >> 27)) * MIX_2
    return bits ^ (bits >> 31)


@triton.jit
def _load_keys(p_row, start, vocab, BLOCK: tl.constexpr):
    """Ids, logits and int32 keys in the order of the logits: zeros alike, NaN above all, the least past the row."""
    o_id = start + tl.arange(0, BLOCK)
    m_id = o_id < vocab
    b_x = tl.load(p_row + o_id, mask=m_id, other=-float("inf"))
    b_bits = tl.where(b_x == 0.0, 0.0, b_x).to(tl.int32, bitcast=True)
    b_key = b_bits ^ ((b_bits >> 31) & 0x7FFFFFFF)
    b_key = tl.where(b_x != b_x, NAN_KEY, b_key)
    return o_id, b_x, tl.where(m_id, b_key, -2147483648)


@triton.jit
def _weights(b_x, top, inverse):
    """e^score in units of 2^-40, rounded to integers; score = (logit - top) / temperature."""
    b_weight = tl.exp((b_x.to(tl.float64) - top) * inverse) * 1099511627776.0
    return ((b_weight + 4503599627370496.0) - 4503599627370496.0).to(tl.int64)


@triton.jit
def _amounts(p_row, vocab, lowest, step, least, top, inverse, BY_MASS: tl.constexpr, BLOCK: tl.constexpr):
    """[16] int64: how many ids, or how much weight, have keys of at least `least` and of lowest + i * step."""
    b_amount = tl.zeros([16], dtype=tl.int64)
    b_candidate = lowest + tl.arange(0, 16).to(tl.int64) * step
    for start in range(0, vocab, BLOCK):
        o_id, b_x, b_key = _load_keys(p_row, start, vocab, BLOCK)
        m_kept = (b_key >= least) & (o_id < vocab)
        if BY_MASS:  # noqa: SIM108 - decided by the compiler
            b_part = tl.where(m_kept, _weights(b_x, top, inverse), 0)
        else:
            b_part = m_kept.to(tl.int64)
        m_reached = b_key.to(tl.int64)[:, None] >= b_candidate[None, :]
        b_amount += tl.sum(tl.where(m_reached, b_part[:, None], 0), axis=0)
    return b_amount


@triton.jit
def _largest_reaching(p_row, vocab, wanted, least, top, inverse, BY_MASS: tl.constexpr, BLOCK: tl.constexpr):
    """The largest key above which the amount is at least `wanted`, four bits a pass."""
    lowest = tl.cast(-2147483648, tl.int64)
    step = tl.cast(1 << 28, tl.int64)
    for _ in range(8):
        b_amount = _amounts(p_row, vocab, lowest, step, least, top, inverse, BY_MASS, BLOCK)
        lowest += (tl.sum((b_amount >= wanted).to(tl.int64), axis=0) - 1) * step
        step = step >> 4
    return lowest.to(tl.int32)


@triton.jit
def _race(p_row, vocab, threshold, floor, top, inverse, counter, BLOCK: tl.constexpr):
    """The id with the largest score + Gumbel noise; the lowest on ties."""
    b_best = tl.full([BLOCK], -float("inf"), dtype=tl.float64)
    b_winner = tl.zeros([BLOCK], dtype=tl.int32)
    for start in range(0, vocab, BLOCK):
        o_id, b_x, b_key = _load_keys(p_row, start, vocab, BLOCK)
        b_bits = _mix(counter + (o_id + 1).to(tl.uint64) * GAMMA)
        b_u = ((b_bits >> 12).to(tl.float64) + 0.5) * 2.220446049250313e-16
        b_score = (b_x.to(tl.float64) - top) * inverse
        m_kept = (b_key >= threshold) & (b_score >= floor) & (o_id < vocab)
        b_value = tl.where(m_kept, b_score - tl.log(-tl.log(b_u)), -float("inf"))
        m_better = b_value > b_best
        b_best = tl.where(m_better, b_value, b_best)
        b_winner = tl.where(m_better, o_id, b_winner)
    best = tl.max(b_best, axis=0)
    return tl.min(tl.where(b_best == best, b_winner, 2147483647), axis=0)


@triton.jit
def choose_kernel(
    p_logits,
    p_law,
    p_place,
    p_out,
    vocab,
    top_k,
    IS_GREEDY: tl.constexpr,
    HAS_TOP_K: tl.constexpr,
    HAS_TOP_P: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a row of p_logits [rows, vocab] float32; p_out [rows, 3] int64: token, key of the maximum, its id.

    p_law: [3] float64, 1 / temperature, top_p and log min_p. p_place: [2] int64, seed and position of row 0.
    """
    i_row = tl.program_id(0)
    p_row = p_logits + i_row.to(tl.int64) * vocab
    b_top = tl.full([BLOCK], -2147483648, dtype=tl.int32)
    b_id = tl.zeros([BLOCK], dtype=tl.int32)
    for start in range(0, vocab, BLOCK):
        o_id, _, b_key = _load_keys(p_row, start, vocab, BLOCK)
        m_better = b_key > b_top
        b_top = tl.where(m_better, b_key, b_top)
        b_id = tl.where(m_better, o_id, b_id)
    top_key = tl.max(b_top, axis=0)
    top_id = tl.min(tl.where(b_top == top_key, b_id, 2147483647), axis=0)
    top_bits = top_key ^ ((top_key >> 31) & 0x7FFFFFFF)
    p_row_out = p_out + i_row * 3
    tl.store(p_row_out, top_id.to(tl.int64))
    tl.store(p_row_out + 1, top_key.to(tl.int64))
    tl.store(p_row_out + 2, top_id.to(tl.int64))
    if not IS_GREEDY:  # noqa: SIM102 - this is decided by the compiler, the next on the device
        if (top_key < INFINITY_KEY) & (top_key > -INFINITY_KEY - 1):
            inverse = tl.load(p_law)
            top = top_bits.to(tl.float32, bitcast=True).to(tl.float64)
            threshold = tl.cast(-2147483648, tl.int32)
            if HAS_TOP_K:
                threshold = _largest_reaching(p_row, vocab, top_k, threshold, top, inverse, False, BLOCK)
            if HAS_TOP_P:
                least = tl.cast(-2147483648, tl.int64)
                b_total = _amounts(p_row, vocab, least, tl.cast(0, tl.int64), threshold, top, inverse, True, BLOCK)
                total = tl.max(b_total, axis=0)
                wanted = tl.ceil(tl.load(p_law + 1) * total.to(tl.float64)).to(tl.int64)
                wanted = tl.minimum(wanted, total)
                threshold = _largest_reaching(p_row, vocab, wanted, threshold, top, inverse, True, BLOCK)
            seed = tl.load(p_place).to(tl.uint64)
            place = (tl.load(p_place + 1) + i_row + 1).to(tl.uint64)
            counter = _mix(_mix(seed + GAMMA) + place * GAMMA)
            token = _race(p_row, vocab, threshold, tl.load(p_law + 2), top, inverse, counter, BLOCK)
            tl.store(p_row_out, token.to(tl.int64))


def bad_verify(draft_ids: Tensor, target_logits: Tensor, law: SamplingLaw, seed: int, position: int) -> tuple[int, int]:
    """The op of `vortex_engine.ops.bad_verify` on tensors in device memory.

    Args:
        draft_ids: [k] int64 on any device.
        target_logits: [k + 1, V] float32, contiguous, on the device.

    Raises:
        VortexError: a row that is reached has no finite maximum.
        ValueError: a shape, dtype or device is wrong.
    """
    check_device("bad_verify", "target_logits", target_logits)
    _check("target_logits", target_logits, torch.float32, 2)
    _check("draft_ids", draft_ids, torch.int64, 1)
    n_rows, vocab = target_logits.shape
    if n_rows != len(draft_ids) + 1:
        raise ValueError(f"[bad_verify] target_logits must have one row more than draft_ids, got {n_rows}")
    if not 1 <= vocab <= MAX_VOCAB:
        raise ValueError(f"[bad_verify] the vocabulary must have from 1 to {MAX_VOCAB} ids, got {vocab}")
    is_greedy = law.temperature == 0.0
    top_p = 1.0 if law.top_p is None else float(law.top_p)
    inverse = 0.0 if is_greedy else min(1.0 / float(law.temperature), MAX_INVERSE)
    floor = math.log(law.min_p) if law.min_p else -math.inf
    where = target_logits.device
    out = torch.empty((n_rows, 3), dtype=torch.int64, device=where)
    signed = seed - (seed >> 63 << 64)
    launch(
        "bad_verify",
        choose_kernel,
        (n_rows, 1, 1),
        target_logits,
        torch.tensor([inverse, top_p, floor], dtype=torch.float64, device=where),
        torch.tensor([signed, position], dtype=torch.int64, device=where),
        out,
        vocab,
        law.top_k or 0,
        IS_GREEDY=is_greedy,
        HAS_TOP_K=law.top_k is not None and law.top_k < vocab,
        HAS_TOP_P=top_p < 1.0,
        BLOCK=min(triton.next_power_of_2(vocab), MAX_BLOCK),
    )
    drafted: list[int] = draft_ids.tolist()
    for n_accepted, (token, key, best) in enumerate(out.tolist()):
        if not -INFINITY_KEY.value - 1 < key < INFINITY_KEY.value:
            top = math.nan if key == NAN_KEY.value else math.copysign(math.inf, key)
            raise VortexError(
                f"the logits at position {position + n_accepted} are not finite ({top} for id {best}): the weights or "
                "this context overflow float32; check the checkpoint, it may hold NaN or infinite weights"
            )
        if n_accepted == len(drafted) or token != drafted[n_accepted]:
            return n_accepted, token
    raise AssertionError("the last row ends the loop")


def bad_verify_arrays(
    draft_ids: Any, target_logits: Any, law: SamplingLaw, seed: int, position: int
) -> tuple[int, int]:
    """The op on numpy arrays, through device memory."""
    return bad_verify(torch.from_numpy(draft_ids), torch.from_numpy(target_logits).to(device()), law, seed, position)


def _check(name: str, tensor: Tensor, dtype: torch.dtype, ndim: int) -> None:
    if tensor.dtype != dtype or tensor.dim() != ndim or not tensor.is_contiguous():
        raise ValueError(
            f"[bad_verify] {name} must be contiguous {dtype} of {ndim} dimensions, got {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}"
        )
