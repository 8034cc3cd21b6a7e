"""The real stories260K model reproduces its golden ids and logits, from its Hugging Face directory and from llama2.c's
checkpoint converted here."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

import vortex_engine as vx


def unpermuted(rows: NDArray[np.float32], n_heads: int) -> NDArray[np.float32]:
    """Rows of q or k from interleaved rotary pairs, as llama2.c rotates, to halves."""
    n_rows, n_cols = rows.shape
    return rows.reshape(n_heads, n_rows // n_heads // 2, 2, n_cols).swapaxes(1, 2).reshape(n_rows, n_cols)


def convert_llama2c(source: Path, hf: Path, target: Path) -> None:
    """Write llama2.c's legacy checkpoint as a Hugging Face directory; tokenizer and generation settings from `hf`."""
    data = source.read_bytes()
    dim, inner, n_layers, n_heads, n_kv_heads, vocab, n_positions = struct.unpack_from("<7i", data)
    assert vocab > 0  # the head is the embedding
    values = np.frombuffer(data, "<f4", offset=28)
    at = 0

    def take(*shape: int) -> NDArray[np.float32]:
        nonlocal at
        size = int(np.prod(shape))
        at += size
        return values[at - size : at].reshape(shape)

    kv_dim = dim // n_heads * n_kv_heads
    tensors = {"model.embed_tokens.weight": take(vocab, dim)}
    parts = {
        "input_layernorm": (dim,),
        "self_attn.q_proj": (dim, dim),
        "self_attn.k_proj": (kv_dim, dim),
        "self_attn.v_proj": (kv_dim, dim),
        "self_attn.o_proj": (dim, dim),
        "post_attention_layernorm": (dim,),
        "mlp.gate_proj": (inner, dim),
        "mlp.down_proj": (dim, inner),
        "mlp.up_proj": (inner, dim),
    }
    for part, shape in parts.items():
        for layer, block in enumerate(take(n_layers, *shape)):
            heads = {"self_attn.q_proj": n_heads, "self_attn.k_proj": n_kv_heads}.get(part)
            tensors[f"model.layers.{layer}.{part}.weight"] = unpermuted(block, heads) if heads else block
    tensors["model.norm.weight"] = take(dim)
    target.mkdir()
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, target / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": dim,
        "intermediate_size": inner,
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": n_positions,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    (target / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copy(hf / name, target / name)


@pytest.fixture(scope="module")
def stories(shared_dir: Path) -> Path:
    return shared_dir / "data" / "weights" / "stories260K"


@pytest.fixture(scope="module", params=["hf", "llama2.c"])
def model(request: pytest.FixtureRequest, stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("stories")
    source = stories / "hf"
    if request.param == "llama2.c":
        source = folder / "converted"
        convert_llama2c(stories / "stories260K.bin", stories / "hf", source)
    vx.pack(source, folder / "model.c3")
    with vx.load(folder / "model.c3", threads=1) as model:
        yield model


def test_greedy_ids_and_text(model: Any, stories: Path) -> None:
    golden = json.loads((stories / "golden.json").read_text())
    for case in golden["greedy"]:
        if case["prompt"]:
            assert model.tokenizer.encode(case["prompt"]) == case["input_ids"]
        result = model.generate(case["input_ids"], max_new_tokens=len(case["generated_ids"]))
        assert list(result.token_ids) == case["generated_ids"]
        assert result.text == case["generated_text"]


def test_upstream_text(model: Any, stories: Path) -> None:
    text = json.loads((stories / "golden.json").read_text())["upstream_expected"]["text"]
    assert model.generate([1], max_new_tokens=200).text == text


def test_logits(model: Any, stories: Path) -> None:
    golden = load_file(stories / "golden_logits.safetensors")
    names = [name for name in golden if name.endswith(".input_ids")]
    assert names
    for name in names:
        found = model.logits(golden[name].tolist())
        np.testing.assert_allclose(found, golden[name.replace("input_ids", "logits")], rtol=0, atol=1e-4)


def test_likelihood_of_a_text(model: Any, stories: Path) -> None:
    for case in json.loads((stories / "golden.json").read_text())["nll"]:
        logits = model.logits(case["input_ids"]).astype(np.float64)[:-1]
        logits -= logits.max(axis=1, keepdims=True)
        log_probability = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        found = -log_probability[np.arange(len(logits)), case["input_ids"][1:]].sum()
        assert found == pytest.approx(case["sum_nll"], rel=1e-5)
