"""Models packed `int8` and `int4`: close to the checkpoint, and the same bits however they are run."""

from __future__ import annotations

import numpy as np
import pytest

import vortex_engine as vx
from vortex_engine import _native

# Relative RMS of the logits of a random two-layer model, whose errors do not average out as a trained one's do.
WORST_LOGITS = {"int8": 0.02, "int4": 0.25}


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_close_to_transformers_and_equal_bits(save_random_model, tmp_path, monkeypatch, codec):
    import torch

    # 200 columns of down_proj are no multiple of 32, and one tile cannot hold a panel of them.
    reference = save_random_model(tmp_path / "hf", "qwen2", "bfloat16", tie_word_embeddings=True)
    report = vx.pack(tmp_path / "hf", tmp_path / "packed", codec=codec)
    assert report.codec == codec
    ids = np.random.default_rng(3).integers(0, 1003, 70).tolist()
    with vx.load(tmp_path / "packed", threads=1, prefill_chunk=70) as model:
        total = model.stats["total_bytes"]
        wanted = model.logits(ids)
        text = model.generate(ids, max_new_tokens=8, ignore_eos=True).token_ids
    with torch.no_grad():
        plain = reference(torch.tensor([ids])).logits[0].numpy()
    assert np.sqrt(np.square(wanted - plain).mean() / np.square(plain).mean()) < WORST_LOGITS[codec]

    for simd in _native.simd_levels():
        monkeypatch.setenv("VORTEX_SIMD", simd)
        for chunk, threads, budget in ((1, 1, total), (7, 2, total // 2), (64, 3, total // 4)):
            with vx.load(tmp_path / "packed", threads=threads, prefill_chunk=chunk, ram_budget=budget) as model:
                np.testing.assert_array_equal(model.logits(ids).view(np.uint32), wanted.view(np.uint32))
                assert model.generate(ids, max_new_tokens=8, ignore_eos=True).token_ids == text


def test_the_reference_backend_runs_them(save_random_model, tmp_path, monkeypatch):
    save_random_model(tmp_path / "hf", "llama", "bfloat16")
    vx.pack(tmp_path / "hf", tmp_path / "packed", codec="int4")
    ids = np.random.default_rng(4).integers(0, 1003, 12).tolist()
    with vx.load(tmp_path / "packed", threads=1) as model:
        wanted = model.logits(ids)
    monkeypatch.setenv("VORTEX_BACKEND", "reference")
    with vx.load(tmp_path / "packed", threads=1) as model:
        np.testing.assert_allclose(model.logits(ids), wanted, rtol=0, atol=5e-4)
