"""Multi-token heads of a packed model: their logits, their weights, and checkpoints that promise what they lack."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

import vortex_engine as vx
from vortex_engine import ops
from vortex_engine.belady import sweep_tile_bytes
from vortex_engine.c3.directory import add_matrices, open_directory
from vortex_engine.decode.drafters.mtp import MultiTokenDrafter
from vortex_engine.decode.sampler import Sampler
from vortex_engine.decode.sampling import SamplingParams
from vortex_engine.models import build_model
from vortex_engine.models.decoder import Decoder
from vortex_engine.models.effort import Effort
from vortex_engine.state import hidden_rows

HIDDEN, VOCAB, K = 48, 130, 3
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "mtp_k": K,
}
IDS = np.asarray([3, 77, 5, 129, 8, 8, 40], np.int64)
Weights = dict[str, NDArray[np.float32]]


def random_weights(*, tied: bool) -> Weights:
    random = np.random.default_rng(4)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        shapes |= {prefix + f"{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
        shapes |= {prefix + f"self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qo"}
        shapes |= {prefix + f"self_attn.{name}_proj.weight": (HIDDEN // 3, HIDDEN) for name in "kv"}
        shapes |= {prefix + f"mlp.{name}_proj.weight": (80, HIDDEN) for name in ("gate", "up")}
        shapes |= {prefix + "mlp.down_proj.weight": (HIDDEN, 80)}
    shapes |= {f"mtp.{i}.weight": (HIDDEN, HIDDEN) for i in range(K)}
    if not tied:
        shapes["lm_head.weight"] = (VOCAB, HIDDEN)
    return {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def pack(tmp_path: Path, tiny_hf_dir: Path) -> Callable[..., Path]:
    """Packs the random checkpoint after changing tensors (None removes one) and configuration."""

    def run(changes: dict[str, Any] | None = None, *, tied: bool = True, codec: str = "exact", **config: Any) -> Path:
        folder = tmp_path / "hf"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(tmp_path / "c3", ignore_errors=True)
        folder.mkdir()
        tensors = {name: x for name, x in (random_weights(tied=tied) | (changes or {})).items() if x is not None}
        save_file(tensors, folder / "model.safetensors")
        document = {name: value for name, value in (CONFIG | config).items() if value is not ...}
        (folder / "config.json").write_text(json.dumps({**document, "tie_word_embeddings": tied}))
        shutil.copy(tiny_hf_dir / "tokenizer.json", folder / "tokenizer.json")
        vx.pack(folder, tmp_path / "c3", codec=codec)
        return tmp_path / "c3"

    return run


@contextmanager
def loaded(path: Path, *, threads: int = 1, budget: int = 1 << 22) -> Generator[tuple[Decoder, ops.OpContext]]:
    directory = open_directory(path)
    ctx = ops.make_context(threads=threads)
    pager = ops.make_pager(ctx, budget)
    try:
        decoder = build_model(directory, pager, add_matrices(directory, pager), ctx, "float")
        pager.start(list(decoder.sweep))
        yield decoder, ctx
    finally:
        pager.close()


def run_heads(decoder: Decoder, ids: NDArray[np.int64] = IDS, planes: Any = "all") -> Any:
    """The model's logits, the state they came from and the heads' logits."""
    state = decoder.new_state(64)
    logits = decoder.forward(ids, state)
    kept = hidden_rows(state)
    assert kept is not None and decoder.multi_token is not None
    return logits, kept.last, decoder.multi_token.logits(kept.last, planes)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_the_definition(tied: bool, pack: Callable[..., Path]) -> None:
    weights = random_weights(tied=tied)
    output = weights["model.embed_tokens.weight" if tied else "lm_head.weight"].astype(np.float64)
    with loaded(pack(tied=tied)) as (decoder, _):
        logits, h, found = run_heads(decoder)
        assert h.shape == (1, HIDDEN) and found.shape == (K, VOCAB) and found.dtype == np.float32
        np.testing.assert_allclose(h @ output.T, logits, rtol=1e-5, atol=1e-5)
        for i in range(K):
            x = h[0].astype(np.float64) @ weights[f"mtp.{i}.weight"].astype(np.float64).T
            np.testing.assert_allclose(output @ (h[0] + x / (1 + np.exp(-x))), found[i], rtol=1e-4, atol=1e-4)


def test_heads_of_zeros_are_the_model_itself(pack: Callable[..., Path]) -> None:
    zeros = {f"mtp.{i}.weight": np.zeros((HIDDEN, HIDDEN), np.float32) for i in range(K)}
    with loaded(pack(zeros)) as (decoder, _):
        logits, _, found = run_heads(decoder)
        assert np.array_equal(found, np.repeat(logits, K, axis=0))


def test_equal_bits_whatever_threads_budget_and_chunks(pack: Callable[..., Path]) -> None:
    path = pack()
    with loaded(path) as (decoder, _):
        expected = run_heads(decoder)[2]
        state = decoder.new_state(64)
        decoder.forward(IDS[:3], state, "none")
        decoder.forward(IDS[3:], state, "all")
        kept = hidden_rows(state)
        assert kept is not None and decoder.multi_token is not None
        assert np.array_equal(decoder.multi_token.logits(kept.last), expected)
    sizes = sorted(int(n) for matrix in open_directory(path).matrices.values() for n in matrix.tiles.stored_bytes)
    with loaded(path, threads=2, budget=4 * sizes[-1]) as (decoder, _):
        for _ in range(3):
            assert np.array_equal(run_heads(decoder)[2], expected)


def test_prefix_planes_come_near(pack: Callable[..., Path]) -> None:
    with loaded(pack()) as (decoder, _):
        _, h, exact = run_heads(decoder)
        assert decoder.multi_token is not None
        near = decoder.multi_token.logits(h, "prefix")
        assert not np.array_equal(near, exact)
        assert np.linalg.norm(near - exact) < 0.3 * np.linalg.norm(exact)


@pytest.mark.parametrize("codec", ["exact", "dense", "raw"])
def test_weights_survive_packing(codec: str, pack: Callable[..., Path]) -> None:
    directory = open_directory(pack(codec=codec))
    ctx = ops.make_context(threads=1)
    pager = ops.make_pager(ctx, 1 << 22)
    try:
        handles = add_matrices(directory, pager)
        pager.start([])
        for i in range(K):
            found = ops.embed_rows(ctx, pager, handles[f"mtp.{i}.weight"], np.arange(HIDDEN, dtype=np.int64))
            assert np.array_equal(found, random_weights(tied=True)[f"mtp.{i}.weight"])
    finally:
        pager.close()


def test_heads_are_in_no_sweep(pack: Callable[..., Path]) -> None:
    path = pack()
    directory = open_directory(path)
    with loaded(path) as (decoder, _):
        names = list(directory.matrices)
        assert not {names[handle] for handle in decoder.sweep} & {f"mtp.{i}.weight" for i in range(K)}
        assert not decoder.unused_tensors
    heads = sum(int(directory.matrices[f"mtp.{i}.weight"].tiles.stored_bytes.sum()) for i in range(K))
    assert sum(sweep_tile_bytes(directory)) == directory.compressed_bytes - heads


def test_a_model_without_them(pack: Callable[..., Path]) -> None:
    for missing in (..., 0, None):
        with loaded(pack(mtp_k=missing)) as (decoder, _):
            assert decoder.multi_token is None
            assert hidden_rows(decoder.new_state(4)) is None
            assert decoder.unused_tensors == tuple(f"mtp.{i}.weight" for i in range(K))


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({"mtp.1.weight": None}, {}, r"'mtp\.1\.weight' is missing"),
        ({"mtp.2.weight": np.zeros((HIDDEN, HIDDEN + 1), np.float32)}, {}, r"'mtp\.2\.weight' has shape \[48, 49\]"),
        ({"mtp.0.weight": np.zeros(HIDDEN, np.float32)}, {}, r"'mtp\.0\.weight' has shape \[48\]"),
        ({}, {"mtp_k": K + 1}, r"'mtp\.3\.weight' is missing"),
        ({}, {"mtp_k": 9}, r"mtp_k = 9 must be an integer between 0 and 8"),
        ({}, {"mtp_k": -1}, r"mtp_k = -1 must be"),
        ({}, {"mtp_k": True}, r"mtp_k = True must be"),
        ({}, {"mtp_k": 2.0}, r"mtp_k = 2\.0 must be"),
    ],
)
def test_promises_that_are_not_kept(
    changes: dict[str, Any], config: dict[str, Any], message: str, pack: Callable[..., Path]
) -> None:
    with pytest.raises(vx.ModelConfigError, match=message):
        vx.load(pack(changes, **config), threads=1).close()


def test_the_drafter_follows_verified_blocks(pack: Callable[..., Path]) -> None:
    with loaded(pack()) as (decoder, ctx):
        heads, state = decoder.multi_token, decoder.new_state(64)
        assert heads is not None
        kept = hidden_rows(state)
        assert kept is not None
        sampler = Sampler(ctx, SamplingParams(), [1], VOCAB)
        drafter = MultiTokenDrafter(heads.logits, kept, sampler)
        assert list(drafter.draft()) == []
        decoder.forward(IDS[:4], state, "last")
        before = list(drafter.draft())
        for n_accepted in range(4):
            mark = state.snapshot()
            # Another drafter's rows, of less effort, come and go.
            decoder.forward(IDS[:1], state, "last", Effort("prefix"))
            assert list(drafter.draft()) == []
            state.rollback(mark)
            assert list(drafter.draft()) == before
            decoder.forward(np.append(IDS[4:], 9), state, "all")
            state.commit(mark, 1 + n_accepted)
            expected = run_heads(decoder, np.append(IDS, 9)[: 5 + n_accepted])[2]
            found = list(drafter.draft())
            assert [token_id for token_id, _ in found] == expected.argmax(axis=1).tolist()
            assert all(0 < confidence <= 1 for _, confidence in found)
            state.rollback(mark)
        sampler.push((5,))
        drafter.accept((5,))
        assert list(drafter.draft()) == before


def test_heads_read_the_state_of_an_adopted_sibling(pack: Callable[..., Path]) -> None:
    with loaded(pack()) as (decoder, _):
        heads, state = decoder.multi_token, decoder.new_state(64)
        assert heads is not None
        kept = hidden_rows(state)
        assert kept is not None
        decoder.forward(IDS[:3], state, "last")
        mark = state.snapshot()
        # The chain 129, 8, 9 with id 8 and id 40 in place of its number 1.
        tree = np.asarray([129, 8, 9, 8, 40], np.int64)
        decoder.forward(tree, state, "all", depths=np.asarray([1, 1], np.int64))
        state.commit(mark, 1)
        decoder.adopt(state, 3 + 3 + 1)
        assert np.array_equal(heads.logits(kept.last), run_heads(decoder, np.asarray([*IDS[:3], 129, 40]))[2])
