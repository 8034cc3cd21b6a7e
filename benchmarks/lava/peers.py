"""faiss and hnswlib, with the sizes and lists that ours has."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.c3.report import MissingPeerError

__all__ = ["faiss_over", "faiss_trained", "hnsw", "list_lengths", "module"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


def module(name: str, package: str) -> Any:
    """An installed peer.

    Raises:
        MissingPeerError: it is not.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPeerError(f"{name} is not installed: pip install {package}") from error


def faiss_over(centroids: F32, keys: F32, lists: I64) -> Any:
    """An IndexIVFFlat by inner product that has these centroids, and each key in the list that `lists` [n] says."""
    faiss = module("faiss", "faiss-cpu")
    index = _ivf(faiss, keys.shape[1], len(centroids))
    index.quantizer.add(centroids)
    index.is_trained = True
    ids = np.arange(len(keys), dtype=np.int64)
    pointers = (faiss.swig_ptr(np.ascontiguousarray(value)) for value in (keys, ids, lists))
    index.add_core(len(keys), *pointers)
    return index


def faiss_trained(keys: F32, n_lists: int, sample: F32) -> Any:
    """An IndexIVFFlat by inner product that was trained on `sample` and holds `keys`."""
    faiss = module("faiss", "faiss-cpu")
    index = _ivf(faiss, keys.shape[1], n_lists)
    index.train(sample)
    index.add(keys)
    return index


def list_lengths(index: Any) -> I64:
    """Slots of every list."""
    return np.array([index.invlists.list_size(i) for i in range(index.nlist)], np.int64)


def hnsw(dim: int, capacity: int) -> Any:
    """An empty graph by inner product, with hnswlib's usual degree and effort."""
    index = module("hnswlib", "hnswlib").Index(space="ip", dim=dim)
    index.init_index(max_elements=capacity, ef_construction=200, M=16)
    return index


def _ivf(faiss: Any, dim: int, n_lists: int) -> Any:
    return faiss.index_factory(dim, f"IVF{n_lists},Flat", faiss.METRIC_INNER_PRODUCT)
