"""The training loop: steps until a budget is spent, interruptible and resumable at any step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from vortex_engine.errors import DivergedError, MachineError
from vortex_engine.train.adamw import Optimizer
from vortex_engine.train.checkpoint import BEST, LAST, MODEL, STABLE, STATE, Position, RunDirectory, save_state
from vortex_engine.train.config import LoopSection
from vortex_engine.train.data import BlockOrder
from vortex_engine.train.divergence import bad_gradient, bad_loss, bad_parameter
from vortex_engine.train.objective import Objective, loss_weights
from vortex_engine.train.parallel import World, gradients_stay_local, whole, whole_tensors
from vortex_engine.train.progress import Reporter
from vortex_engine.train.schedule import CosineSchedule, Schedule
from vortex_engine.train.stop import StopSignal

__all__ = ["Budget", "Machinery", "Trainer"]

_PAUSE_POLL_S = 1.0


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


@dataclass(frozen=True, eq=False)
class Machinery:
    """What a `Trainer` works with.

    Attributes:
        objective: what is trained; forward: what is called to run it, the same or a wrapper that exchanges gradients.
        evaluate: held-out bits per byte, None where nothing is held out.
        write_model: writes tensors as a model directory.
        identity: what a run that goes on from a checkpoint must have in common with this one.
        pool: runs micro-batches side by side (one process, on the CPU).
        bf16: autocast; seed: of whatever randomness a model uses in a step.
    """

    objective: Objective
    forward: nn.Module
    optimizer: Optimizer
    order: BlockOrder
    schedule: CosineSchedule | Schedule
    budget: Budget
    store: RunDirectory
    world: World
    evaluate: Callable[[], float] | None
    write_model: Callable[[Path, dict[str, torch.Tensor]], None]
    identity: dict[str, Any]
    seq_len: int
    bf16: bool
    seed: int
    pool: Executor | None = None


class Trainer:
    """Runs steps from a position to the end of the budget or a stop request."""

    def __init__(self, machinery: Machinery, config: LoopSection) -> None:
        self._m = machinery
        self._config = config
        self._model = machinery.objective.model
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]
        self._saved_step: int | None = None

    def run(self, position: Position, reporter: Reporter, stop: StopSignal) -> Position:
        """Train, leaving a checkpoint at the returned position; `stop.requested` tells why it returned.

        Raises:
            DivergedError: loss, gradient or weights are not finite; the checkpoints there are stay.
            MachineError: a checkpoint cannot be written; the checkpoints there are stay.
        """
        config, m = self._config, self._m
        began_s = time.monotonic() - position.elapsed_s
        logged_s, logged_tokens, saved_s = position.elapsed_s, position.n_tokens, position.elapsed_s
        ended = m.budget.progress(position) >= 1.0
        while not ended and not stop.requested:
            began_s += self._wait_while_paused(position, reporter, stop)
            if m.world.size == 1 and stop.requested:
                break
            progress = m.budget.progress(position)
            if m.schedule.decaying(progress) and not position.decayed:
                self._save(position, (STABLE, LAST))
                position = replace(position, decayed=True)
            lr_scale = m.schedule.lr_scale(position.step, progress=progress)
            nats, grad_norm = self._step(position.step, lr_scale)
            # One clock and one decision for all processes: those of the first, and a stop that any of them saw.
            elapsed_s, stops = m.world.sum(
                [time.monotonic() - began_s if m.world.leads else 0.0, float(stop.requested)]
            )
            stop.requested = stops > 0
            position = replace(
                position,
                step=position.step + 1,
                n_tokens=position.n_tokens + config.batch_tokens,
                elapsed_s=elapsed_s,
            )
            progress = m.budget.progress(position)
            ended = progress >= 1.0
            if position.step % config.log_every_steps == 0 or ended:
                speed = (position.n_tokens - logged_tokens) / max(elapsed_s - logged_s, 1e-9)
                heads = {f"loss_head_{i}": value for i, value in enumerate(nats[1:])}
                reporter.record(
                    {
                        "kind": "train",
                        **_placed(position),
                        "loss": nats[0],
                        **heads,
                        "grad_norm": grad_norm,
                        "lr_scale": lr_scale,
                        "tokens_per_s": speed,
                    },
                    completed=progress,
                )
                logged_s, logged_tokens = elapsed_s, position.n_tokens
            better = False
            if m.evaluate is not None and (position.step % config.eval_every_steps == 0 or ended):
                before_s = time.monotonic()
                position, better = self._evaluated(position, m.evaluate(), reporter)
                # The log's speed is that of the steps.
                logged_s += time.monotonic() - before_s
            if better or ended or self._due(position, saved_s):
                self._save(position, (LAST, BEST) if better else (LAST,))
                saved_s = position.elapsed_s
        self._save(position, (LAST,))
        return position

    def _step(self, step: int, lr_scale: float) -> tuple[list[float], float]:
        """One update; returns the nats of the next token and of every head, and the norm of the gradient."""
        m = self._m
        # Whatever is drawn in a step depends on the step alone, so checkpoints need no generator's state.
        torch.manual_seed((m.seed * 1_000_003 + step) % 2**63)
        rows = m.order.rows(step, seq_len=m.seq_len)
        own = rows.shape[0] // m.world.size
        batches = torch.split(rows[m.world.rank * own :][:own].to(m.world.device), self._rows_at_once(own))
        shares = [len(batch) / rows.shape[0] for batch in batches]
        for parameter in self._parameters:
            parameter.grad = None
        parts = self._backward(batches, shares) if m.pool is None else self._backward_side_by_side(batches, shares)
        # Here the processor waits for a GPU, once a step.
        nats = m.world.sum(cast("list[float]", torch.stack(parts).double().sum(dim=0).tolist()))
        if not all(map(math.isfinite, nats)):
            with torch.autocast(m.world.device.type, torch.bfloat16, enabled=m.bf16):
                cause = bad_loss(m.objective, batches, m.forward)
            raise self._diverged(step + 1, f"the loss is {nats[0]}", cause)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        total_norm = nn.utils.get_total_norm(gradients)
        norm = float(whole(total_norm))
        if not math.isfinite(norm):
            cause = bad_gradient(self._model) or "its norm, which overflows"
            raise self._diverged(step + 1, "the gradient is not finite", cause)
        if self._config.grad_clip:
            nn.utils.clip_grads_with_norm_(self._parameters, self._config.grad_clip, total_norm)
        m.optimizer.step(step, lr_scale=lr_scale)
        return nats, norm

    def _loss(self, batch: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
        """What is differentiated, and the nats [1 + k] of the batch, both as their part of the step's mean."""
        m = self._m
        with torch.autocast(m.world.device.type, torch.bfloat16, enabled=m.bf16):
            nats = m.forward(batch)
        weights = nats.new_tensor(loss_weights(len(nats) - 1, self._config.mtp_weight))
        # Processes average their gradients; each has computed its part of the sum.
        return (nats * weights).sum() * (share * m.world.size), nats.detach() * share

    def _backward(self, batches: Sequence[torch.Tensor], shares: Sequence[float]) -> list[torch.Tensor]:
        parts: list[torch.Tensor] = []
        for place, (batch, share) in enumerate(zip(batches, shares, strict=True)):
            last = place == len(batches) - 1
            with nullcontext() if last else gradients_stay_local(self._m.forward):
                loss, nats = self._loss(batch, share)
                loss.backward()
            parts.append(nats)
        return parts

    def _backward_side_by_side(self, batches: Sequence[torch.Tensor], shares: Sequence[float]) -> list[torch.Tensor]:
        """The same sums in the same order, each gradient computed by one worker.

        Workers meet once a step. Threads inside each operation meet hundreds of times, and on a machine that other
        programs use as well every meeting waits for the thread that was scheduled last.
        """

        def gradients(batch: torch.Tensor, share: float) -> tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]:
            loss, nats = self._loss(batch, share)
            return nats, torch.autograd.grad(loss, self._parameters, allow_unused=True)

        assert self._m.pool is not None
        parts: list[torch.Tensor] = []
        for nats, found in self._m.pool.map(gradients, batches, shares):
            for parameter, gradient in zip(self._parameters, found, strict=True):
                if parameter.grad is None:
                    parameter.grad = gradient
                elif gradient is not None:
                    parameter.grad.add_(gradient)
            parts.append(nats)
        return parts

    def _rows_at_once(self, own: int) -> int:
        micro = self._config.micro_batch_tokens
        return own if micro is None else max(1, min(own, micro // self._m.seq_len))

    def _evaluated(self, position: Position, bits: float, reporter: Reporter) -> tuple[Position, bool]:
        better = math.isfinite(bits) and (position.best_bits is None or bits < position.best_bits)
        if better:
            position = replace(position, best_step=position.step, best_bits=bits)
        record = {"kind": "valid", **_placed(position), "bits_per_byte": bits}
        reporter.record(record, completed=self._m.budget.progress(position))
        return position, better

    def _due(self, position: Position, saved_s: float) -> bool:
        every = self._config.checkpoint_every_steps
        by_step = every is not None and position.step % every == 0
        return by_step or position.elapsed_s - saved_s >= self._config.checkpoint_every_s

    def _save(self, position: Position, links: Sequence[str]) -> None:
        if position.step == self._saved_step and links == (LAST,):
            return
        m = self._m
        if (cause := bad_parameter(self._model)) is not None:
            raise self._diverged(position.step, "the weights are not finite", cause)
        # Gathered by all processes, written by one.
        model = whole_tensors(self._model.state_dict())
        tensors = {f"model.{name}": tensor for name, tensor in model.items()}
        tensors |= {f"optim.{name}": tensor for name, tensor in whole_tensors(m.optimizer.state()).items()}
        failure: MachineError | None = None

        def write(folder: Path) -> None:
            m.write_model(folder / MODEL, model)
            save_state(folder / STATE, tensors, position, m.identity)

        if m.world.leads:
            try:
                m.store.save(position.step, write, links)
            except MachineError as error:
                failure = error
        if m.world.sum([float(failure is not None)])[0]:
            raise failure or MachineError(f"[train] the first process could not save step {position.step}")
        self._saved_step = position.step

    def _diverged(self, step: int, what: str, cause: str) -> DivergedError:
        return DivergedError(
            f"[train] step {step}: {what}: first {cause}; {self._m.store.kept()}; a lower optim.lr or a longer warm-up "
            "may keep it finite",
            step=step,
        )

    def _wait_while_paused(self, position: Position, reporter: Reporter, stop: StopSignal) -> float:
        pause_file = self._config.pause_file
        if pause_file is None or not pause_file.exists():
            return 0.0
        self._save(position, (LAST,))
        reporter.note(f"paused at step {position.step} while {pause_file} exists")
        began_s = time.monotonic()
        while pause_file.exists() and not stop.requested:
            time.sleep(_PAUSE_POLL_S)
        return time.monotonic() - began_s


def _placed(position: Position) -> dict[str, Any]:
    return {"step": position.step, "tokens": position.n_tokens, "elapsed_s": position.elapsed_s}
