"""The trainer of the small model: resuming, atomic files, data order, schedule and the Hugging Face export."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[train]'")

import torch
from safetensors.torch import load_file

from vortex_engine.train.bits import spread_windows, window_bits_per_byte
from vortex_engine.train.checkpoint import Position, load_checkpoint, read_position, save_checkpoint
from vortex_engine.train.data import BlockOrder
from vortex_engine.train.export import export_hugging_face, import_hugging_face
from vortex_engine.train.files import replace_atomically
from vortex_engine.train.loop import (
    LATEST,
    STABLE,
    Budget,
    LoopConfig,
    StopSignal,
    Trainer,
    resume,
)
from vortex_engine.train.model import LlamaSize, TinyLlama
from vortex_engine.train.optim import MuonAdamW, OptimConfig, orthogonalise
from vortex_engine.train.progress import Reporter, read_records
from vortex_engine.train.schedule import Schedule
from vortex_engine.train.tokenizer import train_tokenizer

SIZE = LlamaSize(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=80,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_dim=16,
    max_positions=64,
)
TOKENS = np.random.default_rng(7).integers(0, SIZE.vocab_size, size=64 * 40 + 1).astype(np.uint16)


def make_order() -> BlockOrder:
    return BlockOrder(TOKENS, block_tokens=64, blocks_per_step=4, seed=3)


def make_config(steps: int, **changes: object) -> LoopConfig:
    config = LoopConfig(
        budget=Budget(steps=steps),
        schedule=Schedule(warmup_steps=2, decay_fraction=0.5),
        seq_len=32,
        micro_batch_rows=3,
        report_every_s=0.0,
        validate_every_steps=4,
    )
    return replace(config, **changes)


def make_model() -> tuple[TinyLlama, MuonAdamW]:
    torch.manual_seed(5)
    model = TinyLlama(SIZE)
    return model, MuonAdamW(model, OptimConfig())


def run(work_dir: Path, config: LoopConfig, *, stop_after: int | None = None) -> Position:
    """Train in `work_dir` from whatever is there, asking to stop after so many steps of this call."""
    work_dir.mkdir(exist_ok=True)
    model, optimizer = make_model()
    position = resume(work_dir, model, optimizer, config)
    windows = spread_windows(TOKENS, n_windows=2, length=32)
    byte_lengths = np.full(SIZE.vocab_size, 2)
    stop = StopSignal()
    order = make_order()
    draw_batch = order.batch
    first_step = position.step

    def counting_batch(step: int, *, seq_len: int) -> tuple[torch.Tensor, torch.Tensor]:
        stop.requested = stop_after is not None and step - first_step + 1 >= stop_after
        return draw_batch(step, seq_len=seq_len)

    order.batch = counting_batch
    trainer = Trainer(
        model,
        optimizer,
        order,
        config,
        work_dir=work_dir,
        validate=lambda: window_bits_per_byte(model, windows, byte_lengths),
    )
    with Reporter(work_dir / "metrics.jsonl", last_step=position.step) as reporter:
        return trainer.run(position, reporter, stop)


def assert_same_tensors(left: Path, right: Path) -> None:
    first, second = load_file(left), load_file(right)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = make_config(12)
    run(whole, config)
    for stop_after in (1, 4, 3, None):
        run(parts, config, stop_after=stop_after)
    assert read_position(parts / LATEST).step == 12
    assert_same_tensors(whole / LATEST, parts / LATEST)
    losses = [
        [record["loss"] for record in read_records(folder / "metrics.jsonl") if record["kind"] == "train"]
        for folder in (whole, parts)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


def test_a_larger_budget_after_the_decay_goes_on_from_the_stable_state(tmp_path: Path) -> None:
    short, long = tmp_path / "short", tmp_path / "long"
    run(short, make_config(8))
    assert read_position(short / STABLE).step < 8
    run(short, make_config(16))
    run(long, make_config(16))
    assert_same_tensors(short / LATEST, long / LATEST)


def test_metrics_after_the_checkpoint_are_made_again_not_kept_twice(tmp_path: Path) -> None:
    run(tmp_path, make_config(6), stop_after=3)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": "train", "step": 4, "loss": -1.0}) + "\n")
        file.write('{"kind": "train", "st')
    run(tmp_path, make_config(6))
    steps = [record["step"] for record in read_records(tmp_path / "metrics.jsonl") if record["kind"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_training_learns_the_stream(tmp_path: Path) -> None:
    run(tmp_path, make_config(60, report_every_s=0.0))
    losses = [float(r["loss"]) for r in read_records(tmp_path / "metrics.jsonl") if r["kind"] == "train"]
    assert losses[-1] < losses[0] - 0.3


def test_a_pause_file_stops_the_steps_and_a_stop_request_ends_the_pause(tmp_path: Path) -> None:
    pause_file = tmp_path / "pause"
    pause_file.touch()
    model, optimizer = make_model()
    stop = StopSignal()
    trainer = Trainer(
        model, optimizer, make_order(), make_config(4, pause_file=pause_file), work_dir=tmp_path, validate=lambda: 0.0
    )

    def request_stop(number: int, frame: object) -> None:
        stop.requested = True

    previous = signal.signal(signal.SIGALRM, request_stop)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with Reporter(tmp_path / "metrics.jsonl", last_step=0) as reporter:
            position = trainer.run(Position(), reporter, stop)
    finally:
        signal.signal(signal.SIGALRM, previous)
    # The request is seen between steps, so the step it interrupts the pause before is still made.
    assert position.step <= 1
    assert read_position(tmp_path / LATEST).step == position.step


def test_stop_signal_turns_sigterm_into_a_flag_and_restores_the_handler() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_failed_write_leaves_the_old_checkpoint_and_no_litter(tmp_path: Path) -> None:
    model, optimizer = make_model()
    path = tmp_path / LATEST
    save_checkpoint(path, model, optimizer, Position(step=1, elapsed_s=0.1 + 0.2))
    before = path.read_bytes()

    def half_a_file(temporary: Path) -> None:
        temporary.write_bytes(before[: len(before) // 2])
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_atomically(path, half_a_file)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert load_checkpoint(path, model, optimizer) == Position(step=1, elapsed_s=0.1 + 0.2)


def test_data_order_is_a_function_of_seed_and_step() -> None:
    order, again = make_order(), make_order()
    for step in (17, 0, 9, 10, 3):
        assert np.array_equal(order.blocks(step), again.blocks(step))
    other = BlockOrder(TOKENS, block_tokens=64, blocks_per_step=4, seed=4)
    assert not np.array_equal(order.blocks(0), other.blocks(0))
    epoch = np.concatenate([order.blocks(step) for step in range(order.steps_per_epoch)])
    assert np.array_equal(np.sort(epoch), np.arange(40))
    assert not np.array_equal(order.blocks(0), order.blocks(order.steps_per_epoch))


def test_the_sequence_length_only_reshapes_a_batch() -> None:
    order = make_order()
    for short, long in zip(order.batch(2, seq_len=16), order.batch(2, seq_len=64), strict=True):
        assert torch.equal(short.flatten(), long.flatten())
    inputs, targets = order.batch(2, seq_len=64)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    with pytest.raises(ValueError, match="seq_len"):
        order.batch(0, seq_len=48)


def test_schedule_warms_up_holds_and_falls_to_zero() -> None:
    schedule = Schedule(warmup_steps=10, decay_fraction=0.25)
    assert schedule.lr_scale(0, progress=0.0) == pytest.approx(0.1)
    assert schedule.lr_scale(9, progress=0.1) == 1.0
    assert schedule.lr_scale(500, progress=0.75) == 1.0
    assert schedule.lr_scale(500, progress=0.875) == pytest.approx(0.5)
    assert schedule.lr_scale(500, progress=1.0) == 0.0
    assert [schedule.decaying(progress) for progress in (0.0, 0.75, 0.76)] == [False, False, True]
    with pytest.raises(ValueError, match="decay_fraction"):
        Schedule(decay_fraction=0.0)
    with pytest.raises(ValueError, match="either"):
        Budget(steps=3, seconds=1.0)


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_orthogonalise_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrix, low_precision=False))
    assert values.min() > 0.3
    assert values.max() < 1.4


def test_export_gives_the_logits_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: pip install 'vortex-engine[test]'"
    )
    tokenizer = train_tokenizer(["def f(x):\n    return x\n"] * 3, vocab_size=270)
    torch.manual_seed(11)
    model = TinyLlama(replace(SIZE, vocab_size=270))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    export_hugging_face(model, tokenizer, tmp_path)
    ours = import_hugging_face(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = torch.randint(0, 270, (3, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, got = theirs(ids).logits, ours(ids)
    assert expected.abs().max() > 0.1
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4)
    for name, tensor in model.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor.bfloat16().float())
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "def f(x):\n    return x  # ñ ☃\n"
    assert loaded(text).input_ids == tokenizer.encode(text).ids
    assert loaded.eos_token_id == 0
    assert loaded.decode(tokenizer.encode(text).ids) == text
