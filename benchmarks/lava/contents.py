"""Error of attention over keys of 2 bits a dimension, beside the codes that faiss has of about that size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.c3.report import Figure, MissingPeerError
from benchmarks.c3.setting import Setting
from benchmarks.lava.keys import KeyStream
from benchmarks.lava.peers import module
from benchmarks.machine import print_table
from vortex_engine import ops
from vortex_engine.state import LavaBank

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_SCALES = (4.0, 12.0, 30.0)  # of the scores, which are at most 1: flat reads to sharp ones
_OURS = {"fp16": "vortex, fp16", "int8": "vortex, int8", "2bit": "vortex, 2 bits"}


def measure(setting: Setting) -> Figure:
    """All slots are scored by each; the softmax and the values are the same for all."""
    figure = Figure()
    n, dim, n_clusters, n_queries = (512, 32, 8, 16) if setting.quick else (1 << 14, 128, 256, 256)
    stream = KeyStream(dim, n_clusters)
    keys = stream.draw(n)
    rng = np.random.default_rng(2)
    values = rng.standard_normal((n, dim))
    queries = stream.near(keys[rng.choice(n, n_queries, replace=False)])
    figure.facts = {"slots": n, "dim": dim, "queries": n_queries, "scales": _SCALES}
    exact = queries.astype(np.float64) @ keys.T.astype(np.float64)
    scored: dict[str, tuple[float, F64]] = {}
    for contents, name in _OURS.items():
        scored[name] = _bank_scores(ops.make_context(setting.threads), keys, queries, contents)
    peers: dict[str, Callable[[Any], Any]] = {
        "faiss RaBitQ, 1 bit": lambda faiss: faiss.IndexRaBitQ(dim, faiss.METRIC_INNER_PRODUCT, 1),
        "faiss RaBitQ, 2 bits": lambda faiss: faiss.IndexRaBitQ(dim, faiss.METRIC_INNER_PRODUCT, 2),
        "faiss TurboQuant, 2 bits": lambda faiss: _scalar(faiss, dim, "QT_2bit_tqmse"),
        "faiss TurboQuant, 2 bits, unbiased": lambda faiss: _scalar(faiss, dim, "QT_2bit_tq"),
    }
    for name, make in peers.items():
        try:
            scored[name] = _index_scores(make(module("faiss", "faiss-cpu")), keys, queries)
        except MissingPeerError as error:
            figure.skip(error)
    for name, (n_bytes, scores) in scored.items():
        entry: dict[str, Any] = {"codes": name, "bytes": n_bytes}
        entry["score_rms"] = float(np.sqrt(np.mean((scores - exact) ** 2)))
        for scale in _SCALES:
            wanted, found = _attend(scale * exact, values), _attend(scale * scores, values)
            entry[f"error_{scale:g}"] = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
        figure.entries.append(entry)
    print_table(tuple(figure.entries[0]), [list(entry.values()) for entry in figure.entries])
    found = {entry["codes"]: entry for entry in figure.entries}
    for peer in ("faiss RaBitQ, 2 bits", "faiss TurboQuant, 2 bits"):
        for scale in _SCALES if peer in found else ():
            ours, theirs = found[_OURS["2bit"]], found[peer]
            errors = f"{ours[f'error_{scale:g}']:.3f} and {theirs[f'error_{scale:g}']:.3f}"
            figure.claim(
                f"error of attention at scale {scale:g}, 2 bits a dimension, over the peer's",
                ours[f"error_{scale:g}"] / theirs[f"error_{scale:g}"],
                "<=",
                1.0,
                peer=f"{peer}, {theirs['bytes']:g} bytes a key",
                detail=f"{errors}; ours {ours['bytes']:g} bytes",
            )
    return figure


def _attend(scores: F64, values: F64) -> F64:
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights @ values / weights.sum(axis=1, keepdims=True)


def _bank_scores(ctx: ops.OpContext, keys: F32, queries: F32, contents: str) -> tuple[float, F64]:
    bank = LavaBank(ctx, keys.shape[1], 1, capacity=len(keys), nlist=64, contents=contents)
    bank.insert(keys, np.zeros((len(keys), 1), np.float32), np.arange(len(keys)))
    ids, scores = bank.search(queries, bank.nlist, len(keys))
    dim = keys.shape[1]
    n_bytes = {"fp16": 2.0 * dim, "int8": dim + 4.0, "2bit": dim / 4 + 4.0}[contents]
    return n_bytes, _in_place(ids, scores)


def _index_scores(index: Any, keys: F32, queries: F32) -> tuple[float, F64]:
    index.train(keys)
    index.add(keys)
    scores, ids = index.search(queries, len(keys))
    return float(index.code_size), _in_place(ids, scores)


def _in_place(ids: NDArray[np.int64], scores: F32) -> F64:
    out = np.empty(scores.shape)
    np.put_along_axis(out, ids, scores.astype(np.float64), axis=1)
    return out


def _scalar(faiss: Any, dim: int, kind: str) -> Any:
    return faiss.IndexScalarQuantizer(dim, getattr(faiss.ScalarQuantizer, kind), faiss.METRIC_INNER_PRODUCT)
