"""The LAVA layer against its definition: attention, in float64, over the positions that a row may see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.vortex_checkpoints import CONFIG, VOCAB, write_vortex

import vortex_engine as vx
from vortex_engine.state import LavaState

W = LavaState.WINDOW
ONE_LAYER: dict[str, Any] = {
    "num_hidden_layers": 1,
    "layer_parts": [["lava"]],
    "mtp_k": 0,
    "lava_capacity": 512,
    "lava_cluster_top": CONFIG["lava_clusters"],
    "lava_top_k": 512,
}
Tensors = dict[str, NDArray[np.float64]]


@pytest.fixture(scope="module")
def ids() -> NDArray[np.int64]:
    return np.random.default_rng(9).integers(0, VOCAB, 5 * W + 20)


def as_stored(tensors: dict[str, NDArray[np.float32]]) -> Tensors:
    """What bf16 makes of the weights, as float64."""
    return {name: (values.view("<u4") & 0xFFFF0000).view("<f4").astype(np.float64) for name, values in tensors.items()}


def normed(x: NDArray[np.float64], eps: float) -> NDArray[np.float64]:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)


def expected_logits(tensors: Tensors, ids: NDArray[np.int64], seen: NDArray[np.bool_], reads: NDArray[np.bool_]) -> Any:
    """Logits of a model of one LAVA layer whose row t sees seen[t]."""
    layer, heads, key = "model.layers.0.", CONFIG["lava_num_heads"], CONFIG["lava_key_dim"]
    h = tensors["model.embed_tokens.weight"][ids]
    x = normed(h, CONFIG["rms_norm_eps"]) * tensors[layer + "lava_norm.weight"]
    q = (x @ tensors[layer + "lava.q_proj.weight"].T).reshape(len(ids), heads, key)
    q, k = (normed(rows, 1e-6) / key**0.5 for rows in (q, x @ tensors[layer + "lava.k_proj.weight"].T))
    v = x @ tensors[layer + "lava.v_proj.weight"].T
    scores = np.einsum("thd,sd->hts", q, k) * np.exp(tensors[layer + "lava.log_scale"])[:, None, None]
    scores *= (1.0 + np.log(np.arange(len(ids)) + 1.0))[:, None]
    weights = np.exp(np.where(seen, scores, -np.inf) - scores.max(axis=-1, keepdims=True))
    read = np.einsum("hts,sv->thv", weights / weights.sum(axis=-1, keepdims=True), v).reshape(len(ids), -1)
    h = h + np.where(reads[:, None], read @ tensors[layer + "lava.o_proj.weight"].T, 0.0)
    return (normed(h, CONFIG["rms_norm_eps"]) * tensors["model.norm.weight"]) @ tensors["lm_head.weight"].T


def seen_by(n: int, *, write_every: int = 1, capacity: int = 10**6) -> NDArray[np.bool_]:
    """[n, n]: the rows of this window and the last, and the newest `capacity` written ones of those before."""
    seen = np.zeros((n, n), np.bool_)
    for t in range(n):
        recent = max(0, t // W - 1) * W
        seen[t, recent : t + 1] = True
        written = [s for s in range(recent) if s % write_every == 0]
        seen[t, written[max(0, len(written) - capacity) :]] = True
    return seen


def run(folder: Path, ids: NDArray[np.int64], **changes: Any) -> tuple[Tensors, NDArray[np.float32]]:
    tensors = write_vortex(folder / "hf", **(ONE_LAYER | changes))
    vx.pack(folder / "hf", folder / "c3")
    with vx.load(folder / "c3", threads=2, prefill_chunk=130) as model:
        return as_stored(tensors), model.logits(ids.tolist())


def error(found: NDArray[np.float32], expected: NDArray[np.float64]) -> float:
    return float(np.abs(found - expected).max() / np.sqrt((expected**2).mean()))


@pytest.mark.parametrize(("contents", "tolerance"), [("fp16", 1.5e-2), ("int8", 0.2)])
@pytest.mark.parametrize(("write_every", "read_every"), [(1, 1), (3, 1), (1, 5), (7, 2), (200, 1)])
def test_duty_cycles(
    tmp_path: Path, ids: NDArray[np.int64], contents: str, tolerance: float, write_every: int, read_every: int
) -> None:
    changes = {"lava_write_every": write_every, "lava_read_every": read_every, "lava_contents": contents}
    tensors, found = run(tmp_path, ids, **changes)
    reads = np.arange(len(ids)) % read_every == 0
    assert error(found, expected_logits(tensors, ids, seen_by(len(ids), write_every=write_every), reads)) < tolerance


def test_a_full_bank_keeps_the_newest(tmp_path: Path, ids: NDArray[np.int64]) -> None:
    tensors, found = run(tmp_path, ids, lava_capacity=70)
    reads = np.ones(len(ids), np.bool_)
    assert error(found, expected_logits(tensors, ids, seen_by(len(ids), capacity=70), reads)) < 2e-2
    assert error(found, expected_logits(tensors, ids, seen_by(len(ids)), reads)) > 0.1


def test_the_tail_stands_for_what_is_not_read(tmp_path: Path, ids: NDArray[np.int64]) -> None:
    seen, reads = seen_by(len(ids)), np.ones(len(ids), np.bool_)
    errors: list[float] = []
    for tail in (True, False):
        tensors, found = run(tmp_path / str(tail), ids, lava_top_k=4, lava_tail=tail)
        errors.append(float(np.sqrt(((found - expected_logits(tensors, ids, seen, reads)) ** 2).mean())))
    with_tail, without = errors
    assert 0 < with_tail < 0.95 * without
