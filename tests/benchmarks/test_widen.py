"""Widening keeps the function: the grown model's logits and texts are those of the model it was grown from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.bad.widen import Growth, grown_config, live_layers, widen
from benchmarks.c3.weights import read_bf16_bits

import vortex_engine as vx
from vortex_engine.decode.load import model_path
from vortex_engine.errors import ModelConfigError

PROMPTS = (
    "def fibonacci(n):\n",
    "import os\n\n\nclass Store:\n    def __init__(self",
    "The server reads a request and",
)
SMALL = Growth(n_layers=6, intermediate_size=896)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    folder = tmp_path_factory.mktemp("widen")
    try:
        source = model_path("nano")
    except ModelConfigError as error:
        pytest.skip(str(error))
    share = widen(source, folder / "wide", SMALL).zero_share
    vx.pack(folder / "wide", folder / "wide.c3")
    return folder, share


def test_a_grown_model_is_the_same_function(grown: tuple[Path, float]) -> None:
    with vx.load("nano", threads=1) as narrow, vx.load(grown[0] / "wide.c3", threads=1) as wide:
        for prompt in PROMPTS:
            expected, found = narrow.logits(prompt), wide.logits(prompt)
            # The same products summed in another order.
            assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()
            texts = [model.generate(prompt, max_new_tokens=64, ignore_eos=True) for model in (narrow, wide)]
            assert texts[0].token_ids == texts[1].token_ids


def test_dead_weight_is_dense_and_shaped_like_trained_weight(grown: tuple[Path, float]) -> None:
    folder, share = grown
    tensors = dict(read_bf16_bits(folder / "wide" / "model.safetensors"))
    n_zeros = sum(int((bits & 0x7FFF == 0).sum()) for bits in tensors.values())
    assert share == pytest.approx(n_zeros / sum(bits.size for bits in tensors.values())) and share < 0.25
    dead = tensors["model.layers.1.mlp.gate_proj.weight"]
    live = tensors["model.layers.2.mlp.gate_proj.weight"][:864, :320]
    assert np.all(dead != 0) and _deviation(dead) == pytest.approx(_deviation(live), rel=0.05)


def test_growth_is_the_same_for_the_same_seed(tiny_c3_dir: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_c3_dir / "config.json").read_text())
    assert config["model_type"] == "llama"
    growth = Growth(n_layers=3, intermediate_size=2 * config["intermediate_size"])
    files: list[bytes] = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        widen(tiny_c3_dir, tmp_path / name, Growth(4, 3, growth.intermediate_size, seed))
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


def test_trained_layers_are_spread_and_the_last_stays_last() -> None:
    assert live_layers(4, 24) == {5: 0, 11: 1, 17: 2, 23: 3}
    assert live_layers(4, 4) == {0: 0, 1: 1, 2: 2, 3: 3}


def test_the_full_growth_is_a_gigabyte_with_the_same_heads() -> None:
    config = json.loads((model_path("nano") / "config.json").read_text())
    wide = grown_config(config, Growth())
    assert wide["num_attention_heads"] // wide["num_key_value_heads"] == 5 and wide["head_dim"] == 64
    assert wide["rms_norm_eps"] * 4 == config["rms_norm_eps"]


@pytest.mark.parametrize("growth", [Growth(width=2), Growth(n_layers=1), Growth(intermediate_size=8)])
def test_a_growth_that_would_change_the_function_is_refused(growth: Growth, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        widen(model_path("nano"), tmp_path / "wide", growth)


def _deviation(bits: np.ndarray) -> float:
    return float((bits.astype(np.uint32) << np.uint32(16)).view(np.float32).std())
