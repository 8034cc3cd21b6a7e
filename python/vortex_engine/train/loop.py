"""The training loop: steps until a budget is spent, interruptible and resumable at any step."""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import torch
from torch import nn

from vortex_engine.train.checkpoint import Position, load_checkpoint, read_position, save_checkpoint
from vortex_engine.train.data import BlockOrder
from vortex_engine.train.model import TinyLlama
from vortex_engine.train.optim import MuonAdamW
from vortex_engine.train.progress import Reporter
from vortex_engine.train.schedule import Schedule

_PAUSE_POLL_S = 1.0
LATEST = "latest.safetensors"
STABLE = "stable.safetensors"


@dataclass(frozen=True)
class Budget:
    """When a run ends: after so many steps, or so many seconds of training with pauses left out."""

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise ValueError(f"[Budget] give either steps or seconds, got steps={self.steps} seconds={self.seconds}")

    def progress(self, position: Position) -> float:
        """Spent part of the budget, 0 to 1 and beyond."""
        if self.steps is not None:
            return position.step / self.steps
        assert self.seconds is not None
        return position.elapsed_s / self.seconds


@dataclass(frozen=True)
class LoopConfig:
    """How the loop runs; nothing here changes the order of the data."""

    budget: Budget
    schedule: Schedule
    seq_len: int
    micro_batch_rows: int
    n_workers: int = 1
    grad_clip: float = 1.0
    bf16: bool = False
    compile_loss: bool = False
    report_every_s: float = 15.0
    checkpoint_every_s: float = 120.0
    validate_every_steps: int = 200
    pause_file: Path | None = None


class StopSignal:
    """Turns SIGINT and SIGTERM into a flag that the loop reads between steps, while it is entered."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


def resume(work_dir: Path, model: nn.Module, optimizer: MuonAdamW, config: LoopConfig) -> Position:
    """Load the state a run with this budget goes on from; a fresh `Position` where there is none.

    A larger budget after the decay has begun goes back to the state saved at the end of the stable part: weights
    whose rate already fell are a poor start for more training at full rate.
    """
    latest, stable = work_dir / LATEST, work_dir / STABLE
    if not latest.exists():
        return Position()
    position = read_position(latest)
    if position.decayed and not config.schedule.decaying(config.budget.progress(position)):
        return load_checkpoint(stable, model, optimizer)
    return load_checkpoint(latest, model, optimizer)


class Trainer:
    """Runs steps from a position to the end of the budget or a stop request."""

    def __init__(
        self,
        model: TinyLlama,
        optimizer: MuonAdamW,
        order: BlockOrder,
        config: LoopConfig,
        *,
        work_dir: Path,
        validate: Callable[[], float],
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._order = order
        self._config = config
        self._work_dir = work_dir
        self._validate = validate
        self._parameters = list(model.parameters())
        # Workers meet once a step. Threads inside each operation meet hundreds of times, and on a machine that other
        # programs use as well every meeting waits for the thread that was scheduled last.
        self._pool = ThreadPoolExecutor(config.n_workers)
        self._loss = torch.compile(model.loss) if config.compile_loss else model.loss

    def run(self, position: Position, reporter: Reporter, stop: StopSignal) -> Position:
        """Train, leaving `latest.safetensors` at the returned position; `stop.requested` tells why it returned."""
        config = self._config
        started_s = time.monotonic() - position.elapsed_s
        reported_s = saved_s = time.monotonic()
        reported_tokens = position.n_tokens
        while not stop.requested and config.budget.progress(position) < 1.0:
            paused_s = self._wait_while_paused(position, reporter, stop)
            started_s, reported_s = started_s + paused_s, reported_s + paused_s
            progress = config.budget.progress(position)
            if config.schedule.decaying(progress) and not position.decayed:
                save_checkpoint(self._work_dir / STABLE, self._model, self._optimizer, position)
                position = replace(position, decayed=True)
            lr_scale = config.schedule.lr_scale(position.step, progress=progress)
            loss, n_tokens = self._step(position.step, lr_scale)
            now = time.monotonic()
            position = replace(
                position, step=position.step + 1, n_tokens=position.n_tokens + n_tokens, elapsed_s=now - started_s
            )
            if now - reported_s >= config.report_every_s:
                record = {
                    "kind": "train",
                    "step": position.step,
                    "tokens": position.n_tokens,
                    "elapsed_s": position.elapsed_s,
                    "loss": loss,
                    "lr_scale": lr_scale,
                    "tokens_per_s": (position.n_tokens - reported_tokens) / (now - reported_s),
                }
                reporter.record(record, completed=progress)
                reported_s, reported_tokens = now, position.n_tokens
            if position.step % config.validate_every_steps == 0:
                self._report_validation(position, reporter)
            if now - saved_s >= config.checkpoint_every_s:
                self._save(position)
                saved_s = now
        self._save(position)
        return position

    def _step(self, step: int, lr_scale: float) -> tuple[float, int]:
        inputs, targets = self._order.batch(step, seq_len=self._config.seq_len)
        rows = self._config.micro_batch_rows
        input_parts, target_parts = torch.split(inputs, rows), torch.split(targets, rows)
        parts = list(self._pool.map(self._gradients, input_parts, target_parts))
        # Summed in the order of the rows, not of arrival: the result does not depend on the workers' timing.
        total = 0.0
        for parameter in self._parameters:
            parameter.grad = None
        for (loss, gradients), part in zip(parts, input_parts, strict=True):
            share = part.shape[0] / inputs.shape[0]
            total += loss * share
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                if parameter.grad is None:
                    parameter.grad = gradient * share
                else:
                    parameter.grad.add_(gradient, alpha=share)
        torch.nn.utils.clip_grad_norm_(self._parameters, self._config.grad_clip)
        self._optimizer.step(step, lr_scale=lr_scale, pool=self._pool)
        return total, inputs.numel()

    def _gradients(self, rows: torch.Tensor, targets: torch.Tensor) -> tuple[float, tuple[torch.Tensor, ...]]:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._config.bf16):
            loss = self._loss(rows, targets)
        return float(loss.detach()), torch.autograd.grad(loss, self._parameters)

    def _wait_while_paused(self, position: Position, reporter: Reporter, stop: StopSignal) -> float:
        pause_file = self._config.pause_file
        if pause_file is None or not pause_file.exists():
            return 0.0
        self._save(position)
        reporter.note(f"paused at step {position.step} while {pause_file} exists")
        began_s = time.monotonic()
        while pause_file.exists() and not stop.requested:
            time.sleep(_PAUSE_POLL_S)
        return time.monotonic() - began_s

    def _report_validation(self, position: Position, reporter: Reporter) -> None:
        record = {
            "kind": "valid",
            "step": position.step,
            "tokens": position.n_tokens,
            "elapsed_s": position.elapsed_s,
            "bits_per_byte": self._validate(),
        }
        reporter.record(record, completed=self._config.budget.progress(position))

    def _save(self, position: Position) -> None:
        save_checkpoint(self._work_dir / LATEST, self._model, self._optimizer, position)
