"""The layer with one decay a head: what is trained in torch is what runs over packed matrices, and it can learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.mamba_checkpoints import CONFIGS, VOCAB, random_tensors
from tests.models.conftest import write_byte_tokenizer

import vortex_engine as vx
from vortex_engine.layers import SSMShape

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[test]'")

from safetensors.torch import save_file  # noqa: E402

from vortex_engine.layers.trainable_ssm import TrainableSSM  # noqa: E402

SHAPE = SSMShape(n_heads=6, head_dim=16, n_state=9, n_groups=3, conv_width=4)
HIDDEN = 48


def trained_layer() -> TrainableSSM:
    """A layer some steps of training away from where it began."""
    torch.manual_seed(5)
    layer = TrainableSSM(HIDDEN, SHAPE)
    optimizer = torch.optim.Adam(layer.parameters(), lr=3e-3)
    x, y = torch.randn(2, 40, HIDDEN), torch.randn(2, 40, HIDDEN)
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(layer(x), y).backward()
        optimizer.step()
    return layer


def test_every_parameter_learns() -> None:
    torch.manual_seed(1)
    layer = TrainableSSM(HIDDEN, SHAPE)
    layer(torch.randn(2, 33, HIDDEN)).square().mean().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_it_learns_to_remember() -> None:
    # The target is the input of three steps before: a task for the convolution's window and the state together.
    torch.manual_seed(2)
    layer = TrainableSSM(8, SSMShape(2, 8, 8, 1, 4))
    optimizer = torch.optim.Adam(layer.parameters(), lr=3e-2)
    losses: list[float] = []
    for _ in range(25):
        x = torch.randn(8, 24, 8)
        wanted = torch.nn.functional.pad(x, (0, 0, 3, 0))[:, :24]
        loss = torch.nn.functional.mse_loss(layer(x), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.93 * np.mean(losses[:5])


def test_a_trained_layer_runs_packed(tmp_path: Path) -> None:
    layer = trained_layer()
    config = CONFIGS["mamba2"] | {
        "hidden_size": HIDDEN,
        "num_heads": SHAPE.n_heads,
        "head_dim": SHAPE.head_dim,
        "n_groups": SHAPE.n_groups,
        "state_size": SHAPE.n_state,
        "conv_kernel": SHAPE.conv_width,
        "num_hidden_layers": 1,
        "use_bias": False,
        "tie_word_embeddings": True,
    }
    tensors = {name: torch.from_numpy(values) for name, values in random_tensors(config).items() if "mixer" not in name}
    tensors |= {f"backbone.layers.0.mixer.{name}": value.detach() for name, value in layer.state_dict().items()}
    (tmp_path / "hf").mkdir()
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "hf" / "model.safetensors")
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    write_byte_tokenizer(tmp_path / "hf")
    vx.pack(tmp_path / "hf", tmp_path / "c3")

    ids = np.random.default_rng(0).integers(0, VOCAB, 50)
    with torch.no_grad():
        table = tensors["backbone.embeddings.weight"]
        rms = torch.nn.functional.rms_norm
        h = table[torch.from_numpy(ids)][None]
        normed = rms(h, h.shape[-1:], tensors["backbone.layers.0.norm.weight"], 1e-5)
        h = h + layer(normed)
        expected = (rms(h, h.shape[-1:], tensors["backbone.norm_f.weight"], 1e-5) @ table.T)[0].numpy()
    with vx.load(tmp_path / "c3", threads=1) as model:
        found = model.logits(ids.tolist())
    assert np.abs(found - expected).max() / np.sqrt((expected**2).mean()) < 2e-5


def test_steps_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"min_step must be above 0 and at most max_step, got 0.5 and 0.1"):
        TrainableSSM(8, SHAPE, min_step=0.5)
