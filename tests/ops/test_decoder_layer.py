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


def by_ops(
    ctx: ops.OpContext, pager: Any, layer: ops.DecoderLayer, h: np.ndarray, rotation, cache, *where: Any
) -> None:
    ops.composed(ctx.table)(pager, layer, h, *rotation, *cache, *where)


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
        (replace(layer, planes="half"), r"planes must be all, prefix or resident, got half"),
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


def make_tree(rng: np.random.Generator, n_chain: int, n_siblings: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a chain and its siblings, and the siblings' depths."""
    h = rng.standard_normal((n_chain + n_siblings, HIDDEN)).astype(np.float32)
    return h, rng.integers(1, n_chain, n_siblings)


def rotation_at(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    angles = positions[:, None] / 10000 ** (np.arange(DIM // 2) / (DIM // 2))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def filled_cache(pos: int, capacity: int) -> list[np.ndarray]:
    """What `pos` tokens left, and rubbish after it."""
    rng = np.random.default_rng(pos)
    caches = [rng.standard_normal((KV_HEADS, capacity, DIM)).astype(np.float32) for _ in range(2)]
    for cache in caches:
        cache[:, pos:] = np.nan
    return caches


@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("by", ["op", "composed"])
def test_siblings_have_the_bits_of_their_paths(ctx, open_matrices, by, window, same_bits):
    pager, handles = open_matrices(ctx)
    layer = make_layer(handles, biases=True, qk_norms=True, window=window)
    apply = partial(ops.decoder_layer if by == "op" else by_ops, ctx, pager, layer)
    rng = np.random.default_rng(window)
    # Attention adds in blocks of positions: trees before, across and after the end of one.
    for pos, n_chain, n_siblings in ((0, 2, 1), (3, 4, 3), (61, 6, 7), (127, 3, 4), (126, 2, 1)):
        h, depths = make_tree(rng, n_chain, n_siblings)
        capacity = pos + len(h)
        tree, cache = h.copy(), filled_cache(pos, capacity)
        positions = pos + np.concatenate([np.arange(n_chain), depths])
        apply(tree, rotation_at(positions), cache, pos, depths)

        chain, chain_cache = h[:n_chain].copy(), filled_cache(pos, capacity)
        apply(chain, rotation_at(positions[:n_chain]), chain_cache, pos)
        same_bits(tree[:n_chain], chain)
        for mine, wanted in zip(cache, chain_cache, strict=True):
            same_bits(mine[:, : pos + n_chain].copy(), wanted[:, : pos + n_chain].copy())

        for sibling, depth in enumerate(depths, n_chain):
            path = np.concatenate([h[:depth], h[sibling : sibling + 1]])
            path_cache, end = filled_cache(pos, capacity), pos + depth + 1
            apply(path, rotation_at(pos + np.arange(depth + 1)), path_cache, pos)
            same_bits(tree[sibling], path[-1])
            accepted = [part.copy() for part in cache]
            ops.kv_move(ctx, accepted[0], accepted[1], pos + sibling, pos + int(depth))
            for mine, wanted in zip(accepted, path_cache, strict=True):
                same_bits(mine[:, :end].copy(), wanted[:, :end].copy())
    pager.close()


def test_siblings_are_the_composed_ones_at_every_level(native_contexts, open_matrices, same_bits):
    h, depths = make_tree(np.random.default_rng(1), 5, 6)
    positions = 60 + np.concatenate([np.arange(5), depths])
    wanted = None
    for ctx in native_contexts:
        pager, handles = open_matrices(ctx)
        layer = make_layer(handles, biases=False, qk_norms=False, window=0)
        for apply in (by_ops, ops.decoder_layer):
            got, cache = h.copy(), filled_cache(60, 71)
            apply(ctx, pager, layer, got, rotation_at(positions), cache, 60, depths)
            wanted = wanted or [got, *cache]
            for part, values in zip([got, *cache], wanted, strict=True):
                same_bits(part, values)
        pager.close()


def test_bad_depths_are_named(ctx, open_matrices):
    pager, handles = open_matrices(ctx)
    layer = make_layer(handles, biases=False, qk_norms=False, window=0)
    for depths, message in (([1, 3], r"from 1 to the last row of the chain, 2, got 3"), ([0], r"chain, 3, got 0")):
        h, cache = np.zeros((5, HIDDEN), np.float32), filled_cache(0, CAPACITY)
        with pytest.raises(ValueError, match=rf"\[decoder_layer\] depths .*{message}"):
            ops.decoder_layer(ctx, pager, layer, h, rotation_at(np.arange(5)), cache, 0, np.array(depths, np.int64))
    pager.close()
