"""VORTEX in torch: every part learns, sees nothing that is to come, and is written to be read again."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.vortex_checkpoints import CONFIG, VARIANTS

pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[test]'")

import torch

from vortex_engine.models.vortex_config import VortexConfig, config_json, parse_config
from vortex_engine.train.objective import Objective
from vortex_engine.train.vortex_export import load_vortex, save_vortex
from vortex_engine.train.vortex_model import TrainableVortex

WINDOW = 64


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Generator[None]:
    """Small products wait longer for a second thread than they take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_model(config: VortexConfig, seed: int = 5) -> TrainableVortex:
    """A model some of whose weights are not at their zero beginning."""
    torch.manual_seed(seed)
    model = TrainableVortex(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns(variant: str) -> None:
    config = parse_config(CONFIG | VARIANTS[variant])
    model = random_model(config).train()
    ids = torch.randint(0, config.vocab_size, (2, 3 * WINDOW + 10))
    Objective(model)(ids).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_sees_what_is_before_it_alone(variant: str) -> None:
    config = parse_config(CONFIG | VARIANTS[variant])
    model = random_model(config)
    ids = torch.randint(0, config.vocab_size, (1, 4 * WINDOW))
    changed = ids.clone()
    at = 2 * WINDOW + 5
    changed[0, at] = (changed[0, at] + 1) % config.vocab_size
    with torch.no_grad():
        before, after = model(ids), model(changed)
    torch.testing.assert_close(after[:, :at], before[:, :at], rtol=0, atol=1e-4)
    assert (after[:, at] - before[:, at]).abs().max() > 1e-2


def test_old_positions_that_are_not_written_are_forgotten() -> None:
    # One layer of memory alone: what a row reads is what it sees.
    changes = {"num_hidden_layers": 1, "layer_parts": [["lava"]], "lava_write_every": 8, "lava_read_every": 2}
    model = random_model(parse_config(CONFIG | changes))
    ids = torch.randint(0, 300, (1, 4 * WINDOW))
    with torch.no_grad():
        expected = model(ids)
        for at, seen_by_window in ((8, (0, 1, 2, 3)), (9, (0, 1))):
            changed = ids.clone()
            changed[0, at] += 1
            moved = (model(changed) - expected).abs().amax(-1)[0] > 1e-6
            rows = torch.arange(4 * WINDOW)
            reads = (rows > at) & (rows % 2 == 0) & torch.isin(rows // WINDOW, torch.tensor(seen_by_window))
            reads[at] = True  # its own token has changed
            assert torch.equal(moved, reads), at


def test_surprising_positions_are_written_in_the_order_of_time() -> None:
    changes = {"lava_write_every": 0, "lava_write_on_surprise": 5.9}
    model = random_model(parse_config(CONFIG | changes))
    ids = torch.randint(0, 300, (1, 5 * WINDOW))
    written = model.written(ids)
    assert written is not None and 0.1 < written.float().mean() < 0.9 and not written[0, 0]
    with torch.no_grad():
        logits = model(ids, written)[0]
    nats = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
    assert torch.equal(written[0, 1:], nats > 5.9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_and_loaded(tmp_path: Path, variant: str) -> None:
    config = parse_config(CONFIG | VARIANTS[variant])
    model = random_model(config)
    save_vortex(model, tmp_path, dtype=torch.float32)
    loaded = load_vortex(tmp_path)
    assert loaded.config == config
    ids = torch.randint(0, config.vocab_size, (1, 40))
    with torch.no_grad():
        assert torch.equal(loaded(ids), model(ids))


def test_a_model_begins_as_its_embedding() -> None:
    config = replace(parse_config(CONFIG), tie_word_embeddings=True)
    torch.manual_seed(1)
    model = TrainableVortex(config)
    ids = torch.randint(0, config.vocab_size, (1, 100))
    with torch.no_grad():
        h = model.model.norm(model.model.embed_tokens(ids))
        torch.testing.assert_close(model(ids), h @ model.output.T)


def test_a_configuration_is_what_its_file_says() -> None:
    for changes in VARIANTS.values():
        config = parse_config(CONFIG | changes)
        assert parse_config(config_json(config)) == config
