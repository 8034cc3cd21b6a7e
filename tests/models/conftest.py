"""Random checkpoints made by transformers, as a user would save them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SMALL: dict[str, Any] = {
    "vocab_size": 1003,
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
}


def write_byte_tokenizer(folder: Path) -> None:
    """A tokenizer.json whose tokens are the 256 bytes."""
    vocab = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="session")
def save_random_model() -> Callable[..., Any]:
    """`_save_random_model`, which skips where torch or transformers is missing."""
    pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[test]'")
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'vortex-engine[test]'")
    return _save_random_model


def _save_random_model(folder: Path, model_type: str, dtype: str = "float32", **overrides: Any) -> Any:
    """Save a random model of the family in `dtype`; return transformers' float32 run of the very same weights."""
    import torch
    import transformers

    from vortex_engine.models.config import FAMILIES

    architecture = FAMILIES[model_type].architecture
    sizes = {**SMALL, **overrides}
    if model_type == "qwen3":
        sizes.setdefault("head_dim", 32)
    config = getattr(transformers, architecture.replace("ForCausalLM", "Config"))(**sizes)
    config._attn_implementation = "eager"
    torch.manual_seed(7)
    model = getattr(transformers, architecture)(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Norms and biases must matter, and the logits must be well apart.
            scale = 0.2 if parameter.ndim == 1 else 0.8 / parameter.shape[1] ** 0.5
            parameter.normal_(1.0 if "norm" in name else 0.0, scale)
    model = model.to(getattr(torch, dtype)).eval()
    model.save_pretrained(folder)
    write_byte_tokenizer(folder)
    # A second model: `model.float()` would keep the rotary frequencies that `to` had rounded to `dtype`.
    reference = getattr(transformers, architecture)(config).eval()
    reference.load_state_dict({name: values.float() for name, values in model.state_dict().items()})
    return reference
