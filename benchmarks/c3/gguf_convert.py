"""A checkpoint of `make_model` (qwen2), or a llama with a byte-level BPE, as a bf16 GGUF file.

GGUF names no split of a text into words of one's own, so llama.cpp may tokenize a text otherwise: give it ids.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.c3.report import MissingPeerError
from benchmarks.c3.weights import Bits, read_bf16_bits

_IN_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def import_gguf() -> Any:
    """The gguf package.

    Raises:
        MissingPeerError: it is not installed.
    """
    try:
        return importlib.import_module("gguf")
    except ImportError as error:
        raise MissingPeerError("llama.cpp: no gguf package to convert models with; pip install gguf") from error


def convert(source: Path, target: Path) -> None:
    """Write `source`'s weights, bits unchanged, as `target`.

    Raises:
        MissingPeerError: no gguf package.
        ValueError: another architecture.
    """
    gguf = import_gguf()
    config: dict[str, Any] = json.loads((source / "config.json").read_text())
    architecture = config["model_type"]
    if architecture not in ("qwen2", "llama"):
        raise ValueError(f"{source} is a {architecture!r}; only qwen2 and llama become GGUF here")
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    partial = target.with_suffix(".partial")
    writer = gguf.GGUFWriter(str(partial), architecture)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    _add_tokenizer(gguf, writer, json.loads((source / "tokenizer.json").read_text()), config)
    for name, bits in read_bf16_bits(source / "model.safetensors"):
        if bits.ndim == 1:
            writer.add_tensor(gguf_name(name), (bits.astype(np.uint32) << np.uint32(16)).view(np.float32))
        else:
            if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
                bits = _interleaved(bits, head_dim)
            rows = np.ascontiguousarray(bits).view(np.uint8)
            writer.add_tensor(gguf_name(name), rows, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(target)


def _add_tokenizer(gguf: Any, writer: Any, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    vocab: dict[str, int] = tokenizer["model"]["vocab"]
    tokens = [f"[{i}]" for i in range(config["vocab_size"])]
    kinds = [int(gguf.TokenType.NORMAL)] * len(tokens)
    for token, i in vocab.items():
        tokens[i] = token
    for added in tokenizer.get("added_tokens", ()):
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = int(gguf.TokenType.CONTROL)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges or ["a b"])  # llama.cpp refuses an empty list
    end = config.get("eos_token_id")
    writer.add_eos_token_id(len(tokens) - 1 if end is None else end)
    writer.add_add_bos_token(False)


def _interleaved(rows: Bits, head_dim: int) -> Bits:
    """Rows of q or k [heads * head_dim, K] as ggml's llama turns them: channel i beside i + head_dim / 2."""
    halves = rows.reshape(-1, 2, head_dim // 2, rows.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def gguf_name(name: str) -> str:
    """A tensor's name in GGUF."""
    stem, _, kind = name.rpartition(".")
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
    return f"blk.{layer[1]}.{_IN_LAYER[layer[2]]}.{kind}" if layer else f"{_OUTSIDE[stem]}.{kind}"
