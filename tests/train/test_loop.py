"""The loop: bits of interrupted and resumed runs, accumulation, multi-token loss, what is saved, divergence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[train]'")

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tests.train.tiny_runs import STEPS, assert_same_bits, cut_after, state_of, tiny_config, tiny_settings, write_text
from torch import nn

import vortex_engine as vx
from vortex_engine.errors import DivergedError, ModelConfigError, TargetExistsError
from vortex_engine.train.checkpoint import RunDirectory
from vortex_engine.train.config import TrainConfig
from vortex_engine.train.divergence import bad_gradient, bad_loss, bad_parameter
from vortex_engine.train.export import import_hugging_face
from vortex_engine.train.launch import train
from vortex_engine.train.model import LlamaSize, TinyLlama
from vortex_engine.train.objective import Objective, loss_weights
from vortex_engine.train.progress import read_records
from vortex_engine.train.registry import BUILDERS, TrainableModel


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text, and the run `whole` with a checkpoint of every step; read-only."""
    folder = write_text(tmp_path_factory.mktemp("runs"))
    report = train(tiny_config(folder, "whole"), quiet=True)
    assert report.step == STEPS and not report.stopped
    return folder


def losses(out: Path) -> list[float]:
    return [float(record["loss"]) for record in read_records(out / "metrics.jsonl") if record["kind"] == "train"]


@pytest.mark.parametrize("step", [1, 4, 7])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(whole: Path, step: int) -> None:
    out = cut_after(whole / "whole", step, whole / f"cut_{step}")
    assert train(tiny_config(whole, out.name), resume=True, quiet=True).step == STEPS
    assert_same_bits(state_of(out), state_of(whole / "whole"))
    assert losses(out) == losses(whole / "whole") and len(losses(out)) == STEPS
    assert RunDirectory(out, keep=1).linked("best") == RunDirectory(whole / "whole", keep=1).linked("best")


def test_muon_and_a_stable_schedule_resume_and_go_back_to_the_stable_part(whole: Path) -> None:
    def settings(out: str, steps: int) -> TrainConfig:
        given = tiny_settings(whole, out, steps=steps, checkpoint_every_steps=9)
        given["optim"] = {"kind": "muon"}
        given["schedule"] = {"kind": "stable", "warmup_steps": 2, "decay_fraction": 0.5}
        return TrainConfig.model_validate(given)

    train(settings("long", 12), quiet=True)
    train(settings("short", 6), quiet=True)
    stable = RunDirectory(whole / "short", keep=1).linked("stable")
    assert stable is not None and stable < 6
    train(settings("short", 12), resume=True, quiet=True)
    assert_same_bits(state_of(whole / "short"), state_of(whole / "long"))
    # Nothing of the part that was forgotten is left.
    for step in RunDirectory(whole / "long", keep=1).steps():
        assert_same_bits(state_of(whole / "short", step), state_of(whole / "long", step))
    cut_after(whole / "long", 9, whole / "long_cut")
    train(settings("long_cut", 12), resume=True, quiet=True)
    assert_same_bits(state_of(whole / "long_cut"), state_of(whole / "long"))


def test_workers_and_recomputed_blocks_change_no_bit(whole: Path) -> None:
    train(tiny_config(whole, "workers", workers=2, threads=2, checkpoint_every_steps=99), quiet=True)
    train(tiny_config(whole, "recompute", recompute=True, checkpoint_every_steps=99), quiet=True)
    for name in ("workers", "recompute"):
        assert_same_bits(state_of(whole / name), state_of(whole / "whole"))


def test_accumulation_is_the_mean_over_the_whole_batch(whole: Path) -> None:
    # Three sequences leave an uneven last micro-batch.
    for name, micro in (("by_three", 48), ("at_once", None)):
        train(tiny_config(whole, name, micro_batch_tokens=micro, checkpoint_every_steps=99), quiet=True)
        np.testing.assert_allclose(losses(whole / name), losses(whole / "whole"), rtol=1e-5)
        assert state_of(whole / name).keys() == state_of(whole / "whole").keys()


def test_the_loss_is_that_of_the_next_token_and_of_every_head() -> None:
    torch.manual_seed(2)
    model = TinyLlama(LlamaSize(40, 16, 24, 1, 2, 1, 8, 32, mtp_k=2))
    with torch.no_grad():
        for head in model.mtp.parameters():
            head.normal_()
    rows = torch.randint(0, 40, (3, 13))
    model.requires_grad_(False)
    nats = Objective(model)(rows)
    h = model.hidden(rows[:, :-1])
    for ahead in range(3):
        state = h if ahead == 0 else h + F.silu(h @ model.mtp[ahead - 1].weight.T)
        total = torch.zeros((), dtype=torch.float64)
        for row in range(3):
            for t in range(12 - ahead):
                logits = (model.model.embed_tokens.weight @ state[row, t]).double()
                total -= logits.log_softmax(0)[rows[row, t + 1 + ahead]]
        assert float(nats[ahead]) == pytest.approx(float(total) / (3 * (12 - ahead)), rel=1e-5)
    assert loss_weights(2, 0.3) == [1.0, 0.15, 0.15] and loss_weights(0, 0.3) == [1.0]
    assert Objective(model.eval()).eval()(rows).tolist() == nats[:1].tolist()


def test_best_is_the_evaluation_with_the_fewest_bits_and_its_model_runs_packed(whole: Path) -> None:
    out = whole / "whole"
    evaluated = {r["step"]: r["bits_per_byte"] for r in read_records(out / "metrics.jsonl") if r["kind"] == "valid"}
    assert list(evaluated) == [3, 6, STEPS]
    best = min(evaluated, key=lambda step: evaluated[step])
    store = RunDirectory(out, keep=1)
    assert store.linked("best") == best and store.linked("last") == STEPS
    config = json.loads((out / "best" / "model" / "config.json").read_text())
    assert config["model_type"] == "llama" and config["mtp_k"] == 2
    saved, state = load_file(out / "best" / "model" / "model.safetensors"), state_of(out, best)
    assert all(torch.equal(tensor, state[f"model.{name}"].bfloat16()) for name, tensor in saved.items())

    vx.pack(out / "best" / "model", whole / "best.c3")
    with vx.load(str(whole / "best.c3"), threads=1) as packed:
        prompt = "def f1(x, y):\n"
        assert len(packed.generate(prompt, max_new_tokens=4).token_ids) == 4
        ids = [4 + byte for byte in range(20)]
        logits = packed.logits(ids)
    with torch.no_grad():
        expected = import_hugging_face(out / "best" / "model")(torch.tensor([ids]))[0]
    np.testing.assert_allclose(np.asarray(logits), expected.numpy(), rtol=1e-3, atol=1e-3)


def test_bf16_and_a_budget_of_seconds(whole: Path) -> None:
    # Autocast on the CPU of any machine; where there is no such arithmetic it is only slow.
    report = train(
        tiny_config(whole, "bf16", precision="bf16", steps=None, seconds=0.05, checkpoint_every_steps=99), quiet=True
    )
    assert report.precision == "bf16" and report.seconds >= 0.05 and report.step >= 1 and not report.stopped
    exact, rounded = losses(whole / "whole")[0], losses(whole / "bf16")[0]
    assert rounded != exact and rounded == pytest.approx(exact, rel=1e-2)


class _Recurrent(nn.Module):
    """A language model that is no transformer, without multi-token heads and with a parameter that nothing uses."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.cell = nn.GRU(width, width, batch_first=True)
        self.unused = nn.Parameter(torch.ones(3))
        self.mtp = nn.ModuleList()

    @property
    def output(self) -> torch.Tensor:
        return self.embedding.weight

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        return self.cell(self.embedding(ids))[0]


def test_another_kind_of_model_is_a_builder(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(section: Mapping[str, Any], vocab_size: int) -> TrainableModel:
        return TrainableModel(_Recurrent(vocab_size, section["width"]), {"model_type": "gru", **section}, ())

    monkeypatch.setitem(BUILDERS, "gru", build)
    settings = tiny_settings(whole, "gru", checkpoint_every_steps=4)
    settings["model"] = {"model_type": "gru", "width": 8}
    train(TrainConfig.model_validate(settings), quiet=True)
    assert losses(whole / "gru")[-1] < losses(whole / "gru")[0]
    assert json.loads((whole / "gru" / "last" / "model" / "config.json").read_text())["width"] == 8
    cut_after(whole / "gru", 4, whole / "gru_cut")
    settings["out"], settings["loop"]["workers"] = str(whole / "gru_cut"), 2
    train(TrainConfig.model_validate(settings), resume=True, quiet=True)
    assert_same_bits(state_of(whole / "gru_cut"), state_of(whole / "gru"))


def test_a_new_best_is_saved_at_once(whole: Path) -> None:
    out = whole / "rarely"
    train(tiny_config(whole, "rarely", checkpoint_every_steps=99), quiet=True)
    bits = {r["step"]: float(r["bits_per_byte"]) for r in read_records(out / "metrics.jsonl") if r["kind"] == "valid"}
    better = [step for step in bits if all(bits[step] < bits[before] for before in bits if before < step)]
    assert RunDirectory(out, keep=1).steps() == sorted({*better, STEPS}) and 3 in better
    state = load_file(out / "step_00000003" / "model" / "model.safetensors")
    assert all(
        torch.equal(tensor, state[name])
        for name, tensor in load_file(whole / "whole" / "step_00000003" / "model" / "model.safetensors").items()
    )


def test_old_checkpoints_go_and_linked_ones_stay(whole: Path) -> None:
    train(tiny_config(whole, "few", keep_checkpoints=1), quiet=True)
    store = RunDirectory(whole / "few", keep=1)
    assert set(store.steps()) == {store.linked("best"), STEPS}


def test_a_run_is_not_overwritten_nor_continued_as_another(whole: Path) -> None:
    with pytest.raises(TargetExistsError, match="--resume"):
        train(tiny_config(whole, "whole"), quiet=True)
    cut_after(whole / "whole", 2, whole / "other")
    for key, value in (("seed", 8), ("optim", {"kind": "muon"}), ("data", None), ("model", None)):
        settings = tiny_settings(whole, "other")
        if key == "data":
            settings["data"]["train"] = [str(whole / "held_out.py")]
        elif key == "model":
            settings["model"]["hidden_size"] = 32
        else:
            settings[key] = value
        with pytest.raises(ValueError, match=f"trained with {key}|{key}.hidden"):
            train(TrainConfig.model_validate(settings), resume=True, quiet=True)


def test_a_damaged_checkpoint_is_named(whole: Path) -> None:
    out = cut_after(whole / "whole", 3, whole / "damaged")
    path = RunDirectory(out, keep=1).folder(3) / "state.safetensors"
    good = path.read_bytes()
    for bad in (good[:-5], good[:-40] + bytes([good[-40] ^ 1]) + good[-39:], b"{}"):
        path.write_bytes(bad)
        with pytest.raises(ModelConfigError, match=r"step_00000003.*damaged.*older step"):
            train(tiny_config(whole, "damaged"), resume=True, quiet=True)


def test_a_diverging_run_stops_with_step_and_cause_and_keeps_its_checkpoints(whole: Path) -> None:
    settings = tiny_settings(whole, "diverges", steps=50)
    settings["optim"]["lr"] = 1e19
    settings["schedule"]["warmup_steps"] = 0
    with pytest.raises(
        DivergedError, match=r"step 2: .* not finite: first gradient of \S+ \[.*\] is (nan|inf)"
    ) as found:
        train(TrainConfig.model_validate(settings), quiet=True)
    assert found.value.step == 2 and "step_00000001" in str(found.value)
    assert RunDirectory(whole / "diverges", keep=1).steps() == [1]
    record = read_records(whole / "diverges" / "metrics.jsonl")[-1]
    assert record["kind"] == "diverged" and record["step"] == 2


def test_the_first_tensor_that_is_not_finite_is_named() -> None:
    torch.manual_seed(0)
    model = TinyLlama(LlamaSize(40, 16, 24, 2, 2, 1, 8, 32))
    objective, rows = Objective(model), torch.randint(0, 40, (2, 9))
    assert bad_parameter(model) is None
    down = model.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        down.fill_(3e38)
    assert bad_loss(objective, [rows], objective).startswith("output of model.layers.1.mlp.down_proj [2, 8, 16]")
    with torch.no_grad():
        down[3, 4] = float("nan")
    assert bad_loss(objective, [rows], objective) == (
        "parameter model.layers.1.mlp.down_proj.weight [16, 24] is nan at [3, 4]"
    )
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    assert bad_gradient(model) is None
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj"):
        gradient = model.get_submodule(name).weight.grad
        assert gradient is not None
        gradient[0, 1] = float("inf")
    assert bad_gradient(model) == "gradient of model.layers.1.self_attn.k_proj.weight [8, 16] is inf at [0, 1]"
