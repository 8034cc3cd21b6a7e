"""A VORTEX model in the training loop: resumed, with its layers recomputed, packed, and the same as in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[train]'")

import torch
from tests.train.tiny_runs import assert_same_bits, cut_after, state_of, tiny_settings, write_text
from tests.vortex_checkpoints import CONFIG

import vortex_engine as vx
from vortex_engine.errors import ModelConfigError
from vortex_engine.train.config import TrainConfig
from vortex_engine.train.launch import train
from vortex_engine.train.objective import Objective
from vortex_engine.train.registry import build_trainable
from vortex_engine.train.vortex_export import load_vortex

# The memory is read whole, so that what is packed computes what is trained.
SECTION = {name: value for name, value in CONFIG.items() if name not in ("vocab_size", "eos_token_id")} | {
    "lava_cluster_top": CONFIG["lava_clusters"],
    "lava_top_k": 192,
}


def vortex_config(folder: Path, out: str, **loop: Any) -> TrainConfig:
    settings = tiny_settings(folder, out, steps=4, eval_every_steps=2, checkpoint_every_steps=2, **loop)
    settings["model"] = SECTION
    return TrainConfig.model_validate(settings)


def test_a_vortex_trains_resumes_and_packs(tmp_path: Path) -> None:
    folder = write_text(tmp_path)
    train(vortex_config(folder, "whole"), quiet=True)
    cut_after(folder / "whole", 2, folder / "cut")
    train(vortex_config(folder, "cut", recompute=True), resume=True, quiet=True)
    assert_same_bits(state_of(folder / "cut"), state_of(folder / "whole"))

    vx.pack(folder / "whole" / "best" / "model", folder / "best.c3")
    ids = [4 + (7 * i) % 256 for i in range(150)]
    with vx.load(folder / "best.c3", threads=1) as packed:
        assert len(packed.generate("def f1(x, y):\n", max_new_tokens=4).token_ids) == 4
        found = np.asarray(packed.logits(ids))
    with torch.no_grad():
        expected = load_vortex(folder / "whole" / "best" / "model")(torch.tensor([ids]))[0].numpy()
    # Memories hold fp16.
    assert np.abs(found - expected).max() / np.sqrt((expected**2).mean()) < 5e-3


def test_shards_can_free_what_they_gathered_for_a_pass() -> None:
    torch.manual_seed(1)
    objective = Objective(build_trainable(SECTION, 260).module)
    objective(torch.randint(0, 260, (1, 20))).sum().backward()
    stuck = [name for name, weight in objective.named_parameters() if not weight.untyped_storage().resizable()]
    assert not stuck


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"lava_claster_top": 3}, r"model\.lava_claster_top .* did you mean lava_cluster_top\?"),
        ({"layer_parts": [["mlp"]] * 3}, r"model\.conv.* is no setting of a vortex with these parts|model\.head_dim"),
        ({"vocab_size": 100}, "must hold the tokenizer's 260 tokens"),
        ({"hidden_size": 0}, "hidden_size"),
    ],
)
def test_a_wrong_section_is_named(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelConfigError, match=message):
        build_trainable(SECTION | section, 260)
