"""Small random checkpoints of architectures that only transformers runs, each packed exact and raw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import vortex_engine as vx

SIZES: dict[str, Any] = {
    "vocab_size": 211,
    "hidden_size": 72,
    "intermediate_size": 93,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
DECODER = {**SIZES, "num_key_value_heads": 2}
# The experts are multiples of 4 wide because the plain models need it.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", {"vocab_size": 211, "n_embd": 60, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "gemma2": ("Gemma2ForCausalLM", {**DECODER, "head_dim": 18, "sliding_window": 8, "query_pre_attn_scalar": 18}),
    "phi3": ("Phi3ForCausalLM", DECODER),
    "bert": ("BertForMaskedLM", SIZES),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        {**DECODER, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 36, "intermediate_size": 92},
    ),
    "mixtral": (
        "MixtralForCausalLM",
        {**DECODER, "intermediate_size": 92, "num_local_experts": 5, "num_experts_per_tok": 2},
    ),
    "gpt_oss": (
        "GptOssForCausalLM",
        {
            **DECODER,
            **{"head_dim": 18, "intermediate_size": 92, "num_local_experts": 5, "num_experts_per_tok": 2},
            **{"sliding_window": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        },
    ),
}


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Small products on many threads spend their time waking each other."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[test]'")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Packed:
    """A checkpoint, its packed models and the class that loads them all."""

    source: Path
    exact: Path
    raw: Path
    model_class: Any
    report: Any


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Packed]:
    """`packed(architecture, dtype)`: made once a session; "NAME-stacked" stores all experts as one 3-D tensor."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[test]'")
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: pip install 'vortex-engine[test]'"
    )
    made: dict[tuple[str, str], Packed] = {}

    def make(name: str, dtype: str = "float32") -> Packed:
        if (name, dtype) in made:
            return made[name, dtype]
        class_name, sizes = ARCHITECTURES[name.removesuffix("-stacked")]
        model_class = getattr(transformers, class_name)
        torch.manual_seed(11)
        model = model_class(model_class.config_class(**sizes))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.3)
        folder = tmp_path_factory.mktemp(f"{name}-{dtype}")
        model.to(getattr(torch, dtype)).save_pretrained(
            folder / "source", save_original_format=not name.endswith("-stacked")
        )
        report = vx.pack(folder / "source", folder / "exact")
        vx.pack(folder / "source", folder / "raw", codec="raw")
        made[name, dtype] = Packed(folder / "source", folder / "exact", folder / "raw", model_class, report)
        return made[name, dtype]

    return make
