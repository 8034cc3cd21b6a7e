"""Fixtures of every folder of tests: the shared data and a tiny llama-shaped checkpoint, plain and packed."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

REPOSITORY = Path(__file__).resolve().parent.parent

TINY_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 323,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 322,
    "torch_dtype": "bfloat16",
}


def tiny_tensor_shapes(config: dict[str, object]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a llama checkpoint without biases."""
    hidden, inner = int(str(config["hidden_size"])), int(str(config["intermediate_size"]))
    heads, kv_heads = int(str(config["num_attention_heads"])), int(str(config["num_key_value_heads"]))
    kv_rows = hidden // heads * kv_heads
    vocab = int(str(config["vocab_size"]))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(int(str(config["num_hidden_layers"]))):
        prefix = f"model.layers.{layer}."
        shapes |= {
            prefix + "input_layernorm.weight": (hidden,),
            prefix + "post_attention_layernorm.weight": (hidden,),
            prefix + "self_attn.q_proj.weight": (hidden, hidden),
            prefix + "self_attn.k_proj.weight": (kv_rows, hidden),
            prefix + "self_attn.v_proj.weight": (kv_rows, hidden),
            prefix + "self_attn.o_proj.weight": (hidden, hidden),
            prefix + "mlp.gate_proj.weight": (inner, hidden),
            prefix + "mlp.up_proj.weight": (inner, hidden),
            prefix + "mlp.down_proj.weight": (hidden, inner),
        }
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}


def write_bf16_safetensors(path: Path, tensors: dict[str, NDArray[np.float32]]) -> None:
    """Write float32 arrays, truncated to bf16, as one safetensors file (numpy has no bf16 to hand to the package)."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    payload: list[bytes] = []
    offset = 0
    for name, values in tensors.items():
        data = (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [offset, offset + len(data)]}
        payload.append(data)
        offset += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(payload))


def byte_level_tokenizer(eos_token_id: int) -> Tokenizer:
    """Every byte a token, a few merges, and one special token that ends a text."""
    vocab = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("d", "e"), ("de", "f"), ("r", "e"), ("i", "n"), ("Ġ", "t"), ("o", "n")]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    while len(vocab) < eos_token_id:
        vocab[f"<|unused{len(vocab)}|>"] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


@pytest.fixture(scope="session")
def tiny_hf_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer random llama checkpoint in bf16 with a byte-level tokenizer; read-only, about 0.9 MB."""
    folder = tmp_path_factory.mktemp("tiny") / "tiny-llama"
    folder.mkdir()
    generator = np.random.default_rng(20)
    tensors = {
        name: generator.normal(1.0, 0.05, shape) if len(shape) == 1 else generator.normal(0.0, 0.08, shape)
        for name, shape in tiny_tensor_shapes(TINY_CONFIG).items()
    }
    write_bf16_safetensors(folder / "model.safetensors", {k: v.astype(np.float32) for k, v in tensors.items()})
    (folder / "config.json").write_text(json.dumps(TINY_CONFIG, indent=2))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": TINY_CONFIG["eos_token_id"]}))
    byte_level_tokenizer(int(str(TINY_CONFIG["eos_token_id"]))).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def tiny_c3_dir(tiny_hf_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_hf_dir` packed with codec exact; read-only."""
    import vortex_engine as vx

    target = tmp_path_factory.mktemp("tiny-c3") / "tiny.c3"
    vx.pack(str(tiny_hf_dir), str(target), codec="exact")
    return target


@pytest.fixture(scope="session")
def tiny_mamba_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A three-layer random mamba and mamba2, packed with codec exact; read-only."""
    from tests.mamba_checkpoints import CONFIGS, write_mamba

    import vortex_engine as vx

    packed: dict[str, Path] = {}
    for model_type in CONFIGS:
        folder = tmp_path_factory.mktemp(model_type)
        write_mamba(folder / "hf", model_type)
        vx.pack(folder / "hf", folder / "c3")
        packed[model_type] = folder / "c3"
    return packed


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real weights, tokenizers and texts; it lies beside the repository or where VORTEX_SHARED says."""
    folder = Path(os.environ.get("VORTEX_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared data: {folder / 'data'} is not a folder (set VORTEX_SHARED to the folder that has it)")
    return folder
