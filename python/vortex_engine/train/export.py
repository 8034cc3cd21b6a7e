"""A trained `TinyLlama` as a Hugging Face directory in bfloat16, and back."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType] - its path is untyped
from tokenizers import Tokenizer

from vortex_engine.train.files import save_tensors_atomically, write_text_atomically
from vortex_engine.train.model import LlamaSize, TinyLlama
from vortex_engine.train.tokenizer import END_OF_TEXT, END_OF_TEXT_ID


def export_hugging_face(model: TinyLlama, tokenizer: Tokenizer, directory: Path) -> None:
    """Write what `transformers.AutoModelForCausalLM` and `AutoTokenizer` load; weights are rounded to bfloat16."""
    rounded = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    write_model_directory(
        directory,
        config=hugging_face_config(model.size),
        tensors=rounded,
        tokenizer_json=tokenizer.to_str(),
        end_of_text=(END_OF_TEXT, END_OF_TEXT_ID),
        max_positions=model.size.max_positions,
    )


def write_model_directory(
    directory: Path,
    *,
    config: Mapping[str, object],
    tensors: Mapping[str, torch.Tensor],
    tokenizer_json: str,
    end_of_text: tuple[str, int],
    max_positions: int | None,
) -> None:
    """Write a Hugging Face model directory.

    The weight file is replaced last, so a reader that waits for it finds the rest in place.

    Args:
        end_of_text: token that begins, separates and ends texts, and its id.
    """
    directory.mkdir(parents=True, exist_ok=True)
    token, token_id = end_of_text
    ends = {"bos_token_id": token_id, "eos_token_id": token_id, "pad_token_id": token_id}
    _write_json(directory / "config.json", {**config, **ends})
    _write_json(directory / "generation_config.json", {**ends})
    others = [special for special in _special_tokens(tokenizer_json) if special != token]
    length = {} if max_positions is None else {"model_max_length": max_positions}
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": token,
            "eos_token": token,
            "pad_token": token,
            "additional_special_tokens": others,
            "clean_up_tokenization_spaces": False,
            **length,
        },
    )
    write_text_atomically(directory / "tokenizer.json", tokenizer_json)
    save_tensors_atomically(directory / "model.safetensors", tensors, metadata={"format": "pt"})


def _special_tokens(tokenizer_json: str) -> list[str]:
    added = json.loads(tokenizer_json).get("added_tokens", [])
    return [token["content"] for token in added if token["special"]]


def import_hugging_face(directory: Path) -> TinyLlama:
    """Load a directory written by `export_hugging_face` for float32 arithmetic on its rounded weights."""
    model = TinyLlama(size_from_config(json.loads((directory / "config.json").read_text(encoding="utf-8"))))
    tensors = load_file(directory / "model.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval()


def hugging_face_config(size: LlamaSize) -> dict[str, object]:
    """`config.json` of a `LlamaForCausalLM` of this size."""
    heads: dict[str, object] = {"mtp_k": size.mtp_k} if size.mtp_k else {}
    return heads | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": size.vocab_size,
        "hidden_size": size.hidden_size,
        "intermediate_size": size.intermediate_size,
        "num_hidden_layers": size.n_layers,
        "num_attention_heads": size.n_heads,
        "num_key_value_heads": size.n_kv_heads,
        "head_dim": size.head_dim,
        "max_position_embeddings": size.max_positions,
        "rope_theta": size.rope_theta,
        "rms_norm_eps": size.norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "bos_token_id": END_OF_TEXT_ID,
        "eos_token_id": END_OF_TEXT_ID,
        "pad_token_id": END_OF_TEXT_ID,
        "torch_dtype": str(torch.bfloat16).removeprefix("torch."),
    }


def size_from_config(config: dict[str, object]) -> LlamaSize:
    """The size behind a `config.json` written by `hugging_face_config`."""
    if config["model_type"] != "llama" or not config["tie_word_embeddings"]:
        raise ValueError(f"[size_from_config] model must be a llama with tied embeddings, got {config['model_type']}")
    return LlamaSize(
        vocab_size=_integer(config, "vocab_size"),
        hidden_size=_integer(config, "hidden_size"),
        intermediate_size=_integer(config, "intermediate_size"),
        n_layers=_integer(config, "num_hidden_layers"),
        n_heads=_integer(config, "num_attention_heads"),
        n_kv_heads=_integer(config, "num_key_value_heads"),
        head_dim=_integer(config, "head_dim"),
        max_positions=_integer(config, "max_position_embeddings"),
        rope_theta=_number(config, "rope_theta"),
        norm_eps=_number(config, "rms_norm_eps"),
        mtp_k=_integer({"mtp_k": 0, **config}, "mtp_k"),
    )


def _integer(config: dict[str, object], name: str) -> int:
    value = config[name]
    if not isinstance(value, int):
        raise ValueError(f"[size_from_config] {name} must be an integer, got {value!r}")
    return value


def _number(config: dict[str, object], name: str) -> float:
    value = config[name]
    if not isinstance(value, int | float):
        raise ValueError(f"[size_from_config] {name} must be a number, got {value!r}")
    return float(value)


def _write_json(path: Path, value: dict[str, object]) -> None:
    write_text_atomically(path, json.dumps(value, indent=2) + "\n")
