"""Parts of the trainer: files, log, signals, data order, schedules, optimizers and the Hugging Face export."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[train]'")

import torch
from torch import nn

from vortex_engine.train.adamw import AdamW, AdamWConfig
from vortex_engine.train.data import BlockOrder
from vortex_engine.train.export import export_hugging_face, import_hugging_face
from vortex_engine.train.files import replace_atomically
from vortex_engine.train.loop import Budget
from vortex_engine.train.model import LlamaSize, TinyLlama
from vortex_engine.train.optim import orthogonalise
from vortex_engine.train.precision import computes_bf16, use_bf16
from vortex_engine.train.progress import Reporter, read_records
from vortex_engine.train.schedule import CosineSchedule, Schedule
from vortex_engine.train.stop import StopSignal
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


def test_records_after_the_checkpoint_are_made_again_not_kept_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for last_step in (0, 3):
        with Reporter(shown=False) as reporter:
            reporter.keep(path, last_step=last_step)
            for step in range(last_step + 1, last_step + 5):
                reporter.record({"kind": "train", "step": step, "loss": 0.5}, completed=0.1)
        with path.open("a", encoding="utf-8") as file:
            file.write('{"kind": "train", "st')
    assert [record["step"] for record in read_records(path)] == [1, 2, 3, 4, 5, 6, 7]


def test_stop_signal_turns_sigterm_into_a_flag_and_restores_the_handler() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"whole")

    def half_a_file(temporary: Path) -> None:
        temporary.write_bytes(b"wh")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_atomically(path, half_a_file)
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_data_order_is_a_function_of_seed_and_step() -> None:
    order, again = make_order(), make_order()
    for step in (17, 0, 9, 10, 3):
        assert np.array_equal(order.blocks(step), again.blocks(step))
    other = BlockOrder(TOKENS, block_tokens=64, blocks_per_step=4, seed=4)
    assert not np.array_equal(order.blocks(0), other.blocks(0))
    epoch = np.concatenate([order.blocks(step) for step in range(order.steps_per_epoch)])
    assert np.array_equal(np.sort(epoch), np.arange(40))
    assert not np.array_equal(order.blocks(0), order.blocks(order.steps_per_epoch))


def test_the_sequence_length_only_reshapes_a_step() -> None:
    order = make_order()
    short, long = order.rows(2, seq_len=16), order.rows(2, seq_len=64)
    assert short.shape == (16, 17) and long.shape == (4, 65)
    assert torch.equal(short[:, :-1].flatten(), long[:, :-1].flatten())
    assert torch.equal(short[:, 1:].flatten(), long[:, 1:].flatten())
    starts = order.blocks(2) * 64
    assert long[1].tolist() == TOKENS[starts[1] : starts[1] + 65].tolist()
    with pytest.raises(ValueError, match="seq_len"):
        order.rows(0, seq_len=48)


def test_cosine_warms_up_and_falls_to_its_last_scale() -> None:
    schedule = CosineSchedule(warmup_steps=4, min_scale=0.2)
    assert [schedule.lr_scale(step, progress=0.0) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule.lr_scale(9, progress=0.5) == pytest.approx(0.6)
    assert schedule.lr_scale(9, progress=1.0) == pytest.approx(0.2)
    assert schedule.lr_scale(9, progress=7.0) == pytest.approx(0.2)
    assert CosineSchedule(warmup_steps=0).lr_scale(0, progress=0.0) == 1.0


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


def test_adamw_is_algorithm_2_of_its_paper_without_decay_of_vectors() -> None:
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4))
    optimizer = AdamW(model, AdamWConfig(lr=0.1, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.3))
    expected = {name: weight.detach().double() for name, weight in model.named_parameters()}
    means = {name: torch.zeros_like(weight) for name, weight in expected.items()}
    squares = {name: torch.zeros_like(weight) for name, weight in expected.items()}
    for t in range(1, 5):
        for name, weight in model.named_parameters():
            weight.grad = torch.randn(weight.shape, generator=generator)
            gradient = weight.grad.double()
            means[name] = 0.9 * means[name] + 0.1 * gradient
            squares[name] = 0.95 * squares[name] + 0.05 * gradient**2
            update = (means[name] / (1 - 0.9**t)) / ((squares[name] / (1 - 0.95**t)).sqrt() + 1e-6)
            decay = 0.3 * expected[name] if weight.ndim > 1 else 0.0
            expected[name] = expected[name] - 0.05 * (update + decay)
        optimizer.step(t - 1, lr_scale=0.5)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.detach().double(), expected[name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(optimizer.state()[f"mean.{name}"].double(), means[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("line", "has"),
    [("flags\t\t: fpu avx2 amx_bf16", True), ("flags : avx512f", False), ("Features : asimd bf16", True), ("", False)],
)
def test_bf16_is_used_where_the_processor_has_it(line: str, has: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{line}\n")
    cpu = torch.device("cpu")
    assert computes_bf16(cpu, tmp_path / "cpuinfo") is has
    assert not computes_bf16(cpu, tmp_path / "none")
    assert use_bf16("bf16", cpu) and not use_bf16("fp32", cpu) and use_bf16("auto", cpu) is computes_bf16(cpu)


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
