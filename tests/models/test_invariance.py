"""Logits are the same bits at every budget, thread count, SIMD level, prefill chunk and policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vortex_engine as vx
from vortex_engine import _native

N_TOKENS = 100
BUDGETS = ("minimum", 0.25, 0.5, 1.0)


def run(folder: Path, ids: list[int], **options: Any) -> tuple[NDArray[np.uint32], tuple[int, ...], int]:
    """Bits of all logits, ids of a greedy continuation, peak bytes of the pager."""
    with vx.load(folder, **options) as model:
        logits = model.logits(ids)
        generated = model.generate(ids, max_new_tokens=8, ignore_eos=True).token_ids
        return logits.view(np.uint32), generated, model.stats["peak_bytes"]


@pytest.fixture(scope="module")
def ids() -> list[int]:
    return np.random.default_rng(4).integers(0, 300, N_TOKENS).tolist()


@pytest.fixture(scope="module")
def expected(tiny_c3_dir: Path, ids: list[int]) -> tuple[NDArray[np.uint32], tuple[int, ...]]:
    """One thread, everything resident, the whole prompt in one sweep."""
    return run(tiny_c3_dir, ids, threads=1, prefill_chunk=N_TOKENS)[:2]


@pytest.fixture(scope="module")
def sizes(tiny_c3_dir: Path) -> tuple[int, int]:
    """Minimum budget, bytes of all weights."""
    with vx.load(tiny_c3_dir, threads=1) as model:
        total = model.stats["total_bytes"]
    with pytest.raises(vx.BudgetError) as error:
        vx.load(tiny_c3_dir, ram_budget=1)
    named = [int(word) for word in str(error.value).replace(",", " ").split() if word.isdigit() and int(word) > 1]
    return named[0], total


@pytest.mark.parametrize("chunk", [1, 7, 64, N_TOKENS])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("budget", BUDGETS)
def test_budgets_threads_and_chunks(
    tiny_c3_dir: Path,
    ids: list[int],
    expected: tuple[NDArray[np.uint32], tuple[int, ...]],
    sizes: tuple[int, int],
    budget: str | float,
    threads: int,
    chunk: int,
) -> None:
    minimum, total = sizes
    n_bytes = minimum if isinstance(budget, str) else max(minimum, int(total * budget))
    logits, generated, peak_bytes = run(tiny_c3_dir, ids, ram_budget=n_bytes, threads=threads, prefill_chunk=chunk)
    np.testing.assert_array_equal(logits, expected[0])
    assert generated == expected[1]
    assert peak_bytes <= n_bytes


@pytest.mark.parametrize("policy", ["stable", "lru"])
@pytest.mark.parametrize("simd", _native.simd_levels())
def test_simd_levels_and_policies(
    tiny_c3_dir: Path,
    ids: list[int],
    expected: tuple[NDArray[np.uint32], tuple[int, ...]],
    sizes: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
    simd: str,
    policy: str,
) -> None:
    monkeypatch.setenv("VORTEX_SIMD", simd)
    logits, generated, _ = run(tiny_c3_dir, ids, ram_budget=sizes[1] // 2, threads=2, prefill_chunk=40, policy=policy)
    np.testing.assert_array_equal(logits, expected[0])
    assert generated == expected[1]


def test_the_reference_backend_agrees(
    tiny_c3_dir: Path,
    ids: list[int],
    expected: tuple[NDArray[np.uint32], tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VORTEX_BACKEND", "reference")
    with vx.load(tiny_c3_dir, threads=1) as model:
        assert model.stats["backend"] == "reference"
        found = model.logits(ids[:20])
    np.testing.assert_allclose(found, expected[0].view(np.float32)[:20], rtol=0, atol=2e-4)


def test_decoding_token_by_token_gives_the_prompt_s_logits(tiny_c3_dir: Path, ids: list[int]) -> None:
    with vx.load(tiny_c3_dir, threads=1) as model:
        state = model._decoder.new_state(N_TOKENS)
        single = [model._decoder.forward(np.array([token_id]), state, "last")[0] for token_id in ids]
        np.testing.assert_array_equal(np.stack(single).view(np.uint32), model.logits(ids).view(np.uint32))


@pytest.mark.parametrize("codec", ["exact12", "dense", "lz4"])
def test_lossless_codecs(
    tiny_hf_dir: Path,
    ids: list[int],
    expected: tuple[NDArray[np.uint32], tuple[int, ...]],
    sizes: tuple[int, int],
    tmp_path: Path,
    codec: str,
) -> None:
    """Same bits as `exact`, with tiles that come and go."""
    vx.pack(tiny_hf_dir, tmp_path / "packed.c3", codec=codec)
    logits, generated, _ = run(tmp_path / "packed.c3", ids, ram_budget=sizes[1] // 2, threads=2, prefill_chunk=40)
    np.testing.assert_array_equal(logits, expected[0])
    assert generated == expected[1]
