"""A random bf16 checkpoint of mamba-130m's shape, and the models that run it token by token."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import vortex_engine as vx
from benchmarks.c3.report import MissingPeerError
from benchmarks.c3.setting import Setting
from benchmarks.c3.weights import write_checkpoint
from benchmarks.make_model import to_bf16, tokenizer

__all__ = ["PROMPT_TOKENS", "Step", "packed", "peer", "prompt", "source"]

PROMPT_TOKENS = 64
_SHAPES = {
    "mamba-130m": {"hidden_size": 768, "num_hidden_layers": 24, "vocab_size": 50280, "time_step_rank": 48},
    "mamba-small": {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 323, "time_step_rank": 4},
}

Step = Callable[[], int]


def source(setting: Setting) -> Path:
    """The checkpoint, made once."""
    name = "mamba-small" if setting.quick else "mamba-130m"
    folder = setting.work / name
    if not (folder / "tokenizer.json").is_file():  # written last
        config = {
            "architectures": ["MambaForCausalLM"],
            "model_type": "mamba",
            "state_size": 16,
            "conv_kernel": 4,
            "expand": 2,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": None,
            "dtype": "bfloat16",
            **_SHAPES[name],
        }
        shutil.rmtree(folder, ignore_errors=True)
        write_checkpoint(folder, {key: to_bf16(values) for key, values in _tensors(config)})
        (folder / "config.json").write_text(json.dumps(config))
        tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def packed(setting: Setting, codec: str, activations: str) -> Path:
    """The checkpoint packed with a codec and the activations its products take, made once."""
    folder = source(setting)
    target = setting.work / f"{folder.name}-{codec}-{activations}.c3"
    if not target.is_dir():
        vx.pack(folder, target, codec=codec, activations=activations)
    return target


def prompt(setting: Setting) -> list[int]:
    """Random ids."""
    vocab = json.loads((source(setting) / "config.json").read_text())["vocab_size"]
    return np.random.default_rng(0).integers(0, vocab, PROMPT_TOKENS).tolist()


@contextmanager
def peer(setting: Setting, dtype: str) -> Generator[tuple[Step, np.ndarray]]:
    """transformers after the prompt: a function that chooses the next token, and the logits of the prompt's last.

    Raises:
        MissingPeerError: no transformers.
    """
    try:
        torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise MissingPeerError("transformers: pip install 'vortex-engine[peers]'") from error
    torch.set_num_threads(setting.threads)
    model = transformers.MambaForCausalLM.from_pretrained(source(setting), dtype=getattr(torch, dtype)).eval()
    with torch.inference_mode():
        out = model(torch.tensor([prompt(setting)]), use_cache=True)
        logits = out.logits[0, -1].float().numpy().copy()
        latest = [out.logits[:, -1:].argmax(-1)]

        def step() -> int:
            with torch.inference_mode():
                after = model(latest[0], cache_params=out.cache_params, use_cache=True)
                latest[0] = after.logits[:, -1:].argmax(-1)
            return int(latest[0])

        yield step, logits


def _tensors(config: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Weights as a model has them after initialisation (arXiv:2312.00752, section 3.6)."""
    rng = np.random.default_rng(0)
    hidden, n_state, rank = config["hidden_size"], config["state_size"], config["time_step_rank"]
    channels = int(hidden * config["expand"])

    def normal(*shape: int, scale: float) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) * np.float32(scale)

    yield "backbone.embeddings.weight", normal(config["vocab_size"], hidden, scale=0.1)
    for layer in range(config["num_hidden_layers"]):
        mixer = f"backbone.layers.{layer}.mixer."
        yield f"backbone.layers.{layer}.norm.weight", np.ones(hidden, np.float32)
        yield mixer + "in_proj.weight", normal(2 * channels, hidden, scale=hidden**-0.5)
        yield mixer + "conv1d.weight", normal(channels, 1, config["conv_kernel"], scale=0.3)
        yield mixer + "conv1d.bias", normal(channels, scale=0.1)
        yield mixer + "x_proj.weight", normal(rank + 2 * n_state, channels, scale=channels**-0.5)
        yield mixer + "dt_proj.weight", normal(channels, rank, scale=rank**-0.5)
        steps = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), channels))
        yield mixer + "dt_proj.bias", (steps + np.log(-np.expm1(-steps))).astype(np.float32)
        yield mixer + "A_log", np.log(np.tile(np.arange(1, n_state + 1, dtype=np.float32), (channels, 1)))
        yield mixer + "D", np.ones(channels, np.float32)
        yield mixer + "out_proj.weight", normal(hidden, channels, scale=channels**-0.5)
    yield "backbone.norm_f.weight", np.ones(hidden, np.float32)
