"""Write a random model of a known shape as a Hugging Face directory, without ever holding it in memory.

`python benchmarks/make_model.py DST [--shape qwen2-0.5b]`: bf16 weights from N(0, 0.02), norms 1, biases 0, and a
byte-level tokenizer, so that it packs and generates like a real checkpoint of that size.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

_DEVIATION = 0.02
_CHUNK_WEIGHTS = 4 << 20

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2-0.5b": {
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
    },
    "small": {
        "vocab_size": 1000,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    },
    "deep": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 24,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    },
}


def config(shape: str) -> dict[str, Any]:
    """The config.json of a shape: qwen2 with a tied head, as the published 0.5B model."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "bos_token_id": None,
        # A random model must not end early: no token ends a text.
        "eos_token_id": None,
        "torch_dtype": "bfloat16",
        **SHAPES[shape],
    }


def tensor_shapes(model: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a qwen2 checkpoint in file order."""
    hidden, inner = model["hidden_size"], model["intermediate_size"]
    kv_rows = hidden // model["num_attention_heads"] * model["num_key_value_heads"]
    yield "model.embed_tokens.weight", (model["vocab_size"], hidden)
    for layer in range(model["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        for name, rows in (("q", hidden), ("k", kv_rows), ("v", kv_rows)):
            yield prefix + f"self_attn.{name}_proj.weight", (rows, hidden)
            yield prefix + f"self_attn.{name}_proj.bias", (rows,)
        yield prefix + "self_attn.o_proj.weight", (hidden, hidden)
        yield prefix + "mlp.gate_proj.weight", (inner, hidden)
        yield prefix + "mlp.up_proj.weight", (inner, hidden)
        yield prefix + "mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Bit patterns of finite float32 values rounded to the nearest bf16."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def make_model(folder: Path, shape: str, seed: int = 0) -> int:
    """Write the model and return the bytes of its weights."""
    model = config(shape)
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dims in tensor_shapes(model):
        n_bytes = 2 * int(np.prod(dims))
        header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [offset, offset + n_bytes]}
        offset += n_bytes
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, dims in tensor_shapes(model):
            left = int(np.prod(dims))
            while left > 0:
                n = min(left, _CHUNK_WEIGHTS)
                if len(dims) == 2:
                    values = generator.standard_normal(n, dtype=np.float32) * np.float32(_DEVIATION)
                else:
                    values = np.full(n, 0.0 if name.endswith("bias") else 1.0, dtype=np.float32)
                out.write(to_bf16(values).tobytes())
                left -= n
    (folder / "config.json").write_text(json.dumps(model, indent=2))
    tokenizer().save(str(folder / "tokenizer.json"))
    return offset


def tokenizer() -> Tokenizer:
    """One token a byte; ids above 255 decode to nothing."""
    vocab = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def main() -> None:
    """Parse the command line and write the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2-0.5b")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    n_bytes = make_model(arguments.folder, arguments.shape, arguments.seed)
    print(f"{arguments.folder}: {arguments.shape}, {n_bytes} bytes of bf16 weights")


if __name__ == "__main__":
    main()
