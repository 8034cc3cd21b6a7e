"""Multi-token heads draft in a generation: the same bits, and fewer sweeps where they are right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.decode.runs import run, start

import vortex_engine as vx

HIDDEN, VOCAB, K, N_TOKENS = 32, 322, 3, 24
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "mtp_k": K,
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, tiny_hf_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("mtp")
    random = np.random.default_rng(2)
    prefix = "model.layers.0."
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    shapes |= {prefix + f"{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    shapes |= {prefix + f"self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
    shapes |= {prefix + f"mlp.{name}_proj.weight": (48, HIDDEN) for name in ("gate", "up")}
    shapes |= {prefix + "mlp.down_proj.weight": (HIDDEN, 48)}
    shapes |= {f"mtp.{i}.weight": (HIDDEN, HIDDEN) for i in range(K)}
    (folder / "hf").mkdir()
    save_file(
        {n: random.normal(0, 0.3, s).astype(np.float32) for n, s in shapes.items()}, folder / "hf/model.safetensors"
    )
    (folder / "hf/config.json").write_text(json.dumps(CONFIG))
    shutil.copy(tiny_hf_dir / "tokenizer.json", folder / "hf/tokenizer.json")
    vx.pack(folder / "hf", folder / "c3")
    return folder / "c3"


@pytest.mark.parametrize("speculate", ["mtp", "mtp+prefix", "prefix+mtp", "auto"])
@pytest.mark.parametrize("law", [{}, {"temperature": 0.9, "seed": 5}, {"repetition_penalty": 1.3}], ids=str)
def test_ids_and_logits_are_those_of_plain_decoding(speculate: str, law: dict[str, float], path: Path) -> None:
    with vx.load(path, threads=1) as model:
        plain = run(model, [5, 9, 300, 5], N_TOKENS, speculate="off", **law)
        for block_size in (1, 3, 8, None):
            assert run(model, [5, 9, 300, 5], N_TOKENS, speculate=speculate, block_size=block_size, **law) == plain


def test_heads_that_are_right_are_accepted(path: Path, tmp_path: Path) -> None:
    """A model that repeats one token, and heads of zeros, which then are right about everything."""
    tensors = load_file(path.parent / "hf/model.safetensors")
    tensors["model.embed_tokens.weight"][:] *= 0.1
    tensors["model.embed_tokens.weight"][7] = 1.0
    for name in tensors:
        if name.startswith("mtp.") or name.endswith(("o_proj.weight", "down_proj.weight")):
            tensors[name][:] = 0.0
        if "norm" in name:
            tensors[name][:] = 1.0
    shutil.copytree(path.parent / "hf", tmp_path / "hf")
    save_file(tensors, tmp_path / "hf/model.safetensors")
    vx.pack(tmp_path / "hf", tmp_path / "c3")
    with vx.load(tmp_path / "c3", threads=1) as model:
        generation = start(model, [7, 7], N_TOKENS, speculate="mtp", block_size=8)
        blocks = list(generation.blocks())
        assert all(set(block.token_ids) == {7} for block in blocks)
        # Every block but the first, and the last ones before the state is full, has all heads' drafts.
        assert {len(block.token_ids) for block in blocks[1:-2]} == {K + 1}
        counts = generation.planner.counts["mtp"]
        assert counts.accepted == counts.drafted > 0


def test_a_model_without_heads_says_so(tiny_c3_dir: Path) -> None:
    with vx.load(tiny_c3_dir, threads=1) as model, pytest.raises(ValueError, match="no multi-token heads"):
        model.generate("x", speculate="mtp")
