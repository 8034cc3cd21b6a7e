"""The specification of the LAVA ops: everything that a bank stores, one query at a time, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vortex_engine.ops.lava import Bank

__all__ = ["exact_attention", "lava_read", "lava_search"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_LARGEST = 65504.0  # magnitude of a half


def lava_search(bank: Bank, q: F32, nprobe: int, k: int) -> tuple[I64, F32]:
    _check("lava_search", bank, q, nprobe, k)
    arrays = bank.export()
    ids, scores = np.full((len(q), k), -1, np.int64), np.full((len(q), k), -np.inf, np.float32)
    for row, query in enumerate(q.astype(np.float64)):
        slots = np.flatnonzero(np.isin(arrays["lists"], _probed(arrays, query, nprobe)))
        of_slots = arrays["keys"][slots].astype(np.float64) @ query
        best = np.lexsort((arrays["ids"][slots], -of_slots))[:k]
        ids[row, : len(best)], scores[row, : len(best)] = arrays["ids"][slots[best]], of_slots[best]
    return ids, scores


def lava_read(
    bank: Bank,
    q: F32,
    scale: F32,
    nprobe: int,
    k: int | None,
    tail: bool,
    recent_keys: F32,
    recent_values: F32,
    recent_range: I64,
    return_bound: bool,
) -> tuple[F32, F32 | None]:
    _check("lava_read", bank, q, nprobe, 1 if k is None else k)
    _check_finite("lava_read", "scale", scale)
    _require("lava_read", "scale must not be negative", bool((scale >= 0).all()), float(scale.min(initial=0.0)))
    _check_rows("lava_read", "recent_keys", recent_keys, bank.dim)
    _check_rows("lava_read", "recent_values", recent_values, bank.value_dim)
    arrays = bank.export()
    out, bounds = np.zeros((len(q), bank.value_dim)), np.zeros(len(q))
    for row, query in enumerate(q.astype(np.float64)):
        begin, end = recent_range[row]
        _require(
            "lava_read",
            f"recent_range must be [begin, end) within the {len(recent_keys)} recent rows",
            bool(0 <= begin <= end <= len(recent_keys)),
            f"{begin} to {end} in row {row}",
        )
        recent = recent_keys[begin:end].astype(np.float64), recent_values[begin:end].astype(np.float64)
        out[row], bounds[row] = _read(arrays, query, float(scale[row]), nprobe, k, tail, *recent)
    return out.astype(np.float32), bounds.astype(np.float32) if return_bound else None


def exact_attention(
    arrays: dict[str, NDArray[Any]], q: F32, scale: F32, recent_keys: F32, recent_values: F32, recent_range: I64
) -> F64:
    """[Q, value_dim]: softmax over the recent rows of each query and every slot of an exported bank."""
    out = np.zeros((len(q), arrays["values"].shape[1]))
    for row, query in enumerate(q.astype(np.float64)):
        begin, end = recent_range[row]
        keys = np.concatenate([recent_keys[begin:end], arrays["keys"]]).astype(np.float64)
        values = np.concatenate([recent_values[begin:end], arrays["values"]]).astype(np.float64)
        if len(keys):
            logits = float(scale[row]) * (keys @ query)
            weights = np.exp(logits - logits.max())
            out[row] = weights @ values / weights.sum()
    return out


@dataclass(frozen=True)
class _Tail:
    """The slots of a list that were not read, as logarithms of masses: the estimate and what the true one lies in."""

    estimate: float
    low: float
    high: float
    mean: F64  # value
    radius: float  # no value of the list lies further from the mean


def _read(
    arrays: dict[str, NDArray[Any]],
    query: F64,
    scale: float,
    nprobe: int,
    k: int | None,
    tail: bool,
    recent_keys: F64,
    recent_values: F64,
) -> tuple[F64, float]:
    probed = _probed(arrays, query, nprobe)
    lists, keys, values = arrays["lists"], arrays["keys"].astype(np.float64), arrays["values"].astype(np.float64)
    logits = scale * (keys @ query)
    read = np.flatnonzero(np.isin(lists, probed))
    if k is not None:
        read = read[np.lexsort((arrays["ids"][read], -logits[read]))[:k]]
    tails: list[_Tail] = []
    for i in np.unique(lists):
        members = np.flatnonzero(lists == i)
        rest = np.setdiff1d(members, read)
        mean_key, mean_value = keys[members].mean(axis=0), values[members].mean(axis=0)
        radius = float(np.linalg.norm(values[members] - mean_value, axis=1).max())
        if i in probed:
            if len(rest):
                known = float(np.logaddexp.reduce(logits[rest]))
                tails.append(_Tail(known, known, known, mean_value, radius))
        else:
            low = float(np.log(len(members)) + scale * (mean_key @ query))
            reach = float(np.linalg.norm(keys[members] - mean_key, axis=1).max() * np.linalg.norm(query))
            tails.append(_Tail(low, low, low + scale * reach, mean_value, radius))

    out = np.zeros(recent_values.shape[1])
    read_logits = np.concatenate([scale * (recent_keys @ query), logits[read]])
    read_values = np.concatenate([recent_values, values[read]])
    if not len(read_logits) and not tails:
        return out, 0.0
    shift = max([*read_logits, *(one.low for one in tails)])
    weights = np.exp(read_logits - shift)
    masses = np.array([np.exp(one.estimate - shift) if tail else 0.0 for one in tails])
    means = np.array([one.mean for one in tails]).reshape(len(tails), values.shape[1])
    total = weights.sum() + masses.sum()
    if total > 0:
        out += (weights @ read_values + masses @ means) / total
    error, least = 0.0, weights.sum()
    farthest = float(np.linalg.norm(read_values - out, axis=1).max(initial=0.0))
    for one, mass in zip(tails, masses, strict=True):
        low, high = np.exp(one.low - shift), np.exp(min(one.high - shift, 700.0))
        away = float(np.linalg.norm(one.mean - out))
        error += high * one.radius + max(abs(high - mass), abs(mass - low)) * away
        least += low
        farthest = max(farthest, one.radius + away)
    return out, float(min(error / least, farthest)) if error > 0 else 0.0


def _probed(arrays: dict[str, NDArray[Any]], query: F64, nprobe: int) -> I64:
    """The lists that hold slots and whose centroids score highest, lower lists first on ties."""
    held = np.unique(arrays["lists"])
    scores = arrays["centroids"][held].astype(np.float64) @ query
    return held[np.lexsort((held, -scores))[:nprobe]]


def _require(op: str, rule: str, holds: bool, got: Any) -> None:
    if not holds:
        raise ValueError(f"[{op}] {rule}, got {got}")


def _check_finite(op: str, name: str, values: F32) -> None:
    bad = ~(np.abs(values) <= _LARGEST)
    if bad.any():
        at = [int(i) for i in np.argwhere(bad)[0]]
        raise ValueError(
            f"[{op}] {name} must be finite and at most 65504 in magnitude, got {values[tuple(at)]} at {at}"
        )


def _check_rows(op: str, name: str, values: F32, width: int) -> None:
    fits = values.ndim == 2 and values.shape[1] == width and values.dtype == np.float32
    _require(op, f"{name} must be float32 of shape (any, {width})", fits, f"{values.dtype} of shape {values.shape}")
    _check_finite(op, name, values)


def _check(op: str, bank: Bank, q: F32, nprobe: int, k: int) -> None:
    _check_rows(op, "q", q, bank.dim)
    _require(op, f"nprobe must be from 1 to nlist {bank.nlist}", 1 <= nprobe <= bank.nlist, nprobe)
    _require(op, "k must be from 1 to 16777216", 1 <= k <= 2**24, k)
