"""Runs of a few milliseconds a step, shared by the tests of the loop."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from vortex_engine.train.checkpoint import STATE, RunDirectory
from vortex_engine.train.config import TrainConfig

STEPS = 8
MODELS: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "mtp_k": 2, "max_position_embeddings": 64,
    },
    "vortex": {
        "model_type": "vortex", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "layer_parts": [["conv", "ssm", "mlp"], ["attention", "lava", "mlp"]], "mtp_k": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "kv": {"window_size": 8},
        "ssm_num_heads": 2, "ssm_head_dim": 32, "ssm_state_size": 4, "ssm_n_groups": 1, "ssm_conv_kernel": 2,
        "lava_num_heads": 2, "lava_key_dim": 8, "lava_value_dim": 8, "lava_clusters": 4, "lava_cluster_top": 4,
        "lava_top_k": 16,
    },
}  # fmt: skip


def write_text(folder: Path) -> Path:
    """Code of some kilobytes, and a held-out file beside it."""
    lines = [f"def f{i}(x, y):\n    return x * {i} + y ** {i % 7}\n\n\n" for i in range(60)]
    (folder / "text.py").write_text("".join(lines))
    (folder / "held_out.py").write_text("".join(lines[5:12]).replace("f", "g"))
    return folder


def tiny_settings(folder: Path, out: str, model: str = "llama", **loop: Any) -> dict[str, Any]:
    """A configuration with two layers, multi-token heads and two micro-batches a step; all checkpoints are kept."""
    return {
        "out": str(folder / out),
        "seed": 7,
        "model": MODELS[model],
        "data": {
            "train": [str(folder / "text.py")], "valid": [str(folder / "held_out.py")], "seq_len": 16,
            "cache": str(folder / "cache"),
        },
        "optim": {"lr": 0.01},
        "schedule": {"warmup_steps": 2},
        "loop": {
            "steps": STEPS, "batch_tokens": 128, "micro_batch_tokens": 64, "threads": 1, "device": "cpu",
            "precision": "fp32", "log_every_steps": 1, "eval_every_steps": 3, "eval_windows": 5,
            "checkpoint_every_steps": 1, "keep_checkpoints": 100, "plot": False, **loop,
        },
    }  # fmt: skip


def tiny_config(folder: Path, out: str, model: str = "llama", **loop: Any) -> TrainConfig:
    return TrainConfig.model_validate(tiny_settings(folder, out, model, **loop))


def state_of(out: Path, step: int | None = None) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, of the last without `step`."""
    folder = out / "last" if step is None else RunDirectory(out, keep=1).folder(step)
    return load_file(folder / STATE)


def assert_same_bits(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    different = [name for name, tensor in left.items() if not torch.equal(tensor, right[name])]
    assert not different


def cut_after(whole: Path, step: int, target: Path) -> Path:
    """A copy of a run as it was when the process was killed after the checkpoint of `step`."""
    shutil.copytree(whole, target, symlinks=True)
    store = RunDirectory(target, keep=100)
    for later in store.steps():
        if later > step:
            shutil.rmtree(store.folder(later))
    for name in ("last", "best"):
        if not os.path.exists(target / name):
            (target / name).unlink(missing_ok=True)
    return target
