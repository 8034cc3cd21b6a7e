from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from vortex_engine import ops

HIDDEN, INNER, HEADS, KV_HEADS, DIM = 96, 136, 6, 2, 16
SHAPES = {
    "q": (HEADS * DIM, HIDDEN),
    "k": (KV_HEADS * DIM, HIDDEN),
    "v": (KV_HEADS * DIM, HIDDEN),
    "o": (HIDDEN, HEADS * DIM),
    "gate": (INNER, HIDDEN),
    "up": (INNER, HIDDEN),
    "down": (HIDDEN, INNER),
}
GROUPS = {"qkv": ("q", "k", "v"), "o": ("o",), "gate_up": ("gate", "up"), "down": ("down",)}
CAPACITY = 12
Open = Callable[[ops.OpContext], tuple[Any, dict[str, int]]]


@pytest.fixture
def open_matrices(pack_matrix) -> Open:
    packed = {name: pack_matrix(*shape, seed=i) for i, (name, shape) in enumerate(SHAPES.items())}

    def open_in(ctx: ops.OpContext) -> tuple[Any, dict[str, int]]:
        pager = ops.make_pager(ctx, 1 << 24)
        handles = {
            name: pager.add_matrix(name, pager.add_file(str(matrix.path)), matrix.base_offset, matrix.index)
            for name, matrix in packed.items()
        }
        pager.start(list(handles.values()))
        return pager, handles

    return open_in


def make_layer(
    handles: dict[str, int], *, biases: bool, qk_norms: bool, window: int, planes: str = "all"
) -> ops.DecoderLayer:
    rng = np.random.default_rng(7)

    def vector(length: int) -> np.ndarray:
        return rng.standard_normal(length).astype(np.float32)

    groups = {
        group: ops.Projections(
            tuple(handles[name] for name in names), tuple(vector(SHAPES[name][0]) if biases else None for name in names)
        )
        for group, names in GROUPS.items()
    }
    return ops.DecoderLayer(
        attention_norm=vector(HIDDEN),
        mlp_norm=vector(HIDDEN),
        eps=1e-5,
        qk_norms=(vector(DIM), vector(DIM)) if qk_norms else None,
        n_heads=HEADS,
        n_kv_heads=KV_HEADS,
        head_dim=DIM,
        window=window,
        scale=0.25,
        activations="float",
        planes=planes,
        **groups,
    )


def by_ops(ctx: ops.OpContext, pager: Any, layer: ops.DecoderLayer, h: np.ndarray, rotation, cache, pos: int) -> None:
    ops.composed(ctx.table)(pager, layer, h, *rotation, *cache, pos)


def run(apply: Callable[..., None], steps: tuple[int, ...]) -> list[np.ndarray]:
    """Rows through the layer in calls of so many tokens; the outputs and the cache."""
    rng = np.random.default_rng(3)
    h = rng.standard_normal((sum(steps), HIDDEN)).astype(np.float32)
    angles = np.arange(len(h))[:, None] / 10000 ** (np.arange(DIM // 2) / (DIM // 2))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    cache = tuple(np.zeros((KV_HEADS, CAPACITY, DIM), np.float32) for _ in range(2))
    pos = 0
    for n in steps:
        rows = slice(pos, pos + n)
        apply(h[rows], (cos[rows], sin[rows]), cache, pos)
        pos += n
    return [h, *cache]


@pytest.mark.parametrize(
    "options",
    [
        {"biases": False, "qk_norms": False, "window": 0},
        {"biases": True, "qk_norms": False, "window": 3},
        {"biases": False, "qk_norms": True, "window": 0},
        {"biases": True, "qk_norms": False, "window": 0, "planes": "prefix"},
    ],
    ids=["plain", "biases-window", "qk-norms", "prefix"],
)
def test_it_is_its_ops_one_after_the_other(native_contexts, open_matrices, options, same_bits):
    wanted = None
    for ctx in native_contexts:
        pager, handles = open_matrices(ctx)
        layer = make_layer(handles, **options)
        if wanted is None:
            wanted = run(partial(by_ops, ctx, pager, layer), (5, 1, 3))
        for steps in ((5, 1, 3), (9,)):
            got = run(partial(ops.decoder_layer, ctx, pager, layer), steps)
            for part, values in zip(got, wanted, strict=True):
                same_bits(part, values)
        pager.close()


@pytest.mark.parametrize("planes", ["all", "prefix"])
def test_matches_the_reference(ctx, open_matrices, planes, assert_close):
    reference = ops.make_context(threads=1, backend="reference")
    results = []
    for each in (ctx, reference):
        pager, handles = open_matrices(each)
        layer = make_layer(handles, biases=True, qk_norms=True, window=4, planes=planes)
        results.append(run(partial(ops.decoder_layer, each, pager, layer), (6, 1)))
        pager.close()
    for got, wanted in zip(*results, strict=True):
        assert_close(got, wanted, "reduction")


def test_a_layer_that_does_not_fit_its_matrices_is_named(open_matrices):
    ctx = ops.make_context(threads=1, backend="cpu")
    pager, handles = open_matrices(ctx)
    layer = make_layer(handles, biases=True, qk_norms=True, window=0)
    wrong = [
        (replace(layer, n_heads=5), r"q must be 80 x 96 in qkv, got 96 x 96"),
        (replace(layer, n_kv_heads=0), r"at least 1, got 6, 0 and 16"),
        (replace(layer, o=layer.down), r"down must be 96 x 96 in o, got 96 x 136"),
        (replace(layer, gate_up=layer.qkv), r"gate_up must have 2 matrices and as many biases, got 3 and 3"),
        (replace(layer, mlp_norm=layer.mlp_norm[:-1]), r"mlp_norm .*\(96\), got \(95,\)"),
        (replace(layer, qk_norms=(layer.mlp_norm, layer.mlp_norm)), r"q_norm .*\(16\), got \(96,\)"),
        (replace(layer, down=replace(layer.down, biases=(np.zeros(3, np.float32),))), r"a bias .*\(96\), got \(3,\)"),
        (replace(layer, activations="int2"), r"activations must be float or int8, got int2"),
        (replace(layer, planes="half"), r"planes must be all or prefix, got half"),
    ]
    for bad, message in wrong:
        with pytest.raises(ValueError, match=message):
            run(partial(ops.decoder_layer, ctx, pager, bad), (1,))
    pager.close()


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        (0, np.zeros((2, HIDDEN + 1), np.float32), r"h .*\(any, 96\), got \(2, 97\)"),
        (0, np.zeros((2, HIDDEN), np.float64), r"h must be float32, got float64"),
        (1, (np.zeros((1, DIM // 2), np.float32),) * 2, r"cos .*\(2, 8\), got \(1, 8\)"),
        (2, (np.zeros((1, CAPACITY, DIM), np.float32),) * 2, r"k_cache .*\(2, any, 16\), got \(1, 12, 16\)"),
        (3, CAPACITY - 1, r"pos must be from 0 to capacity - tokens = 10, got 11"),
    ],
)
def test_bad_arguments_are_named(open_matrices, part, value, message):
    ctx = ops.make_context(threads=1, backend="cpu")
    pager, handles = open_matrices(ctx)
    layer = make_layer(handles, biases=False, qk_norms=False, window=0)
    arguments: list[Any] = [
        np.zeros((2, HIDDEN), np.float32),
        (np.zeros((2, DIM // 2), np.float32),) * 2,
        (np.zeros((KV_HEADS, CAPACITY, DIM), np.float32), np.zeros((KV_HEADS, CAPACITY, DIM), np.float32)),
        0,
    ]
    arguments[part] = value
    with pytest.raises(ValueError, match=message):
        ops.decoder_layer(ctx, pager, layer, *arguments)
    pager.close()
