"""A run from its configuration to its report: what `vortex train` calls."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from vortex_engine.errors import BackendUnavailableError, DivergedError, ModelConfigError
from vortex_engine.profile import n_cores
from vortex_engine.train.adamw import AdamW, AdamWConfig, Optimizer
from vortex_engine.train.bits import window_bits_per_byte
from vortex_engine.train.checkpoint import STABLE, STATE, Position, RunDirectory, load_state
from vortex_engine.train.config import TrainConfig
from vortex_engine.train.data import BlockOrder
from vortex_engine.train.export import write_model_directory
from vortex_engine.train.files import write_text_atomically
from vortex_engine.train.inputs import TrainData, prepare_data
from vortex_engine.train.loop import Budget, Machinery, Trainer
from vortex_engine.train.objective import Objective
from vortex_engine.train.optim import MuonAdamW, OptimConfig
from vortex_engine.train.parallel import World, copy_whole, distribute, joined_world
from vortex_engine.train.precision import use_bf16
from vortex_engine.train.progress import Reporter, read_records
from vortex_engine.train.recompute import recompute_blocks
from vortex_engine.train.registry import TrainableModel, build_trainable
from vortex_engine.train.schedule import CosineSchedule, Schedule
from vortex_engine.train.stop import StopSignal

__all__ = ["TrainReport", "run", "train"]

METRICS, PLOT, CONFIG = "metrics.jsonl", "loss.png", "config.yaml"


@dataclass(frozen=True)
class TrainReport:
    """What a run did.

    Attributes:
        seconds: of training, pauses and interruptions left out; stopped: by a signal, before its end.
        rank: of this process, from 0.
        loss: nats of the next token in the last logged step; tokens_per_s: of the steps logged with it.
        best_bits_per_byte: fewest over the held-out windows, at `best_step`.
    """

    out: str
    step: int
    n_tokens: int
    seconds: float
    stopped: bool
    loss: float | None
    tokens_per_s: float | None
    best_step: int | None
    best_bits_per_byte: float | None
    n_parameters: int
    n_processes: int
    rank: int
    precision: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def train(config: TrainConfig, *, resume: bool = False, quiet: bool = False, world: World | None = None) -> TrainReport:
    """Run a configuration, alone or as one of the processes that `torchrun` started.

    On the CPU a run has the same bits every time on one machine, version of torch, number of threads and of processes,
    whether interrupted and resumed or not. The order of the data depends on seed and step alone.

    Args:
        resume: go on from the newest checkpoint, if there is one.
        quiet: nothing on stderr.
        world: of a caller that has joined one, for several runs; `loop.device` is then that of the world.

    Raises:
        TargetExistsError: `config.out` holds a run and `resume` is false, or another process trains in it.
        ModelConfigError, ValueError: what cannot be trained, or a checkpoint of another run.
        DivergedError, MachineError: see `Trainer.run`.
    """
    if config.loop.plot and find_spec("matplotlib") is None:
        raise BackendUnavailableError(
            "[train] the loss plot needs matplotlib: pip install 'vortex-engine[train]', or set loop.plot to false"
        )
    store = RunDirectory(config.out, keep=config.loop.keep_checkpoints)
    with (
        joined_world(config.loop.device) if world is None else nullcontext(world) as joined,
        store.held(resume=resume) if joined.leads else nullcontext(),
        Reporter(shown=joined.leads and not quiet) as reporter,
    ):
        data = prepare_data(config, joined, reporter.note)
        return run(config, data, joined, reporter)


def run(config: TrainConfig, data: TrainData, world: World, reporter: Reporter) -> TrainReport:
    """Build what the configuration says, go on from the newest checkpoint of `config.out` if there is one, train.

    Sets torch's number of threads and its generator.
    """
    loop = config.loop
    torch.set_num_threads(max(1, (loop.threads or n_cores() // world.local_size) // loop.workers))
    torch.manual_seed(config.seed)
    model = build_trainable(config.model, data.codec.vocab_size)
    _check(config, model, world)
    store = RunDirectory(config.out, keep=loop.keep_checkpoints)
    pool = ThreadPoolExecutor(loop.workers) if loop.workers > 1 else None
    bf16 = use_bf16(loop.precision, world.device)
    if loop.recompute:
        recompute_blocks(model.blocks)
    objective = Objective(model.module)
    forward = distribute(objective, model.blocks, world, loop.parallel)
    optimizer = _optimizer(config, model, pool, bf16)
    schedule = _schedule(config)
    budget = Budget(loop.steps, loop.seconds)
    identity = _identity(config, model, data)
    position = _go_on(store, model, optimizer, schedule, budget, identity)
    world.wait()
    if world.leads:
        if position.step:
            store.go_on_from(position)
        write_text_atomically(config.out / CONFIG, config.to_yaml())
        reporter.keep(config.out / METRICS, last_step=position.step)
    byte_lengths = data.codec.byte_lengths()
    rows_at_once = max(1, (loop.micro_batch_tokens or loop.batch_tokens // world.size) // config.data.seq_len)

    def evaluate(windows: torch.Tensor) -> float:
        objective.eval()
        with torch.no_grad(), torch.autocast(world.device.type, torch.bfloat16, enabled=bf16):
            bits = window_bits_per_byte(
                lambda rows: forward(rows)[0], windows, byte_lengths, rows_at_once=rows_at_once, world=world
            )
        objective.train()
        return bits

    def write_model(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
        write_model_directory(
            folder,
            config=model.config,
            tensors={name: tensor.bfloat16() for name, tensor in tensors.items()},
            tokenizer_json=data.codec.json_text,
            end_of_text=(data.codec.end_of_text, data.codec.end_of_text_id),
            max_positions=model.max_positions,
        )

    windows = data.windows
    machinery = Machinery(
        objective=objective,
        forward=cast("nn.Module", torch.compile(forward)) if loop.compile else forward,
        optimizer=optimizer,
        order=BlockOrder(
            data.ids,
            block_tokens=config.block_tokens,
            blocks_per_step=loop.batch_tokens // config.block_tokens,
            seed=config.seed,
        ),
        schedule=schedule,
        budget=budget,
        store=store,
        world=world,
        evaluate=None if windows is None else lambda: evaluate(windows),
        write_model=write_model,
        identity=identity,
        seq_len=config.data.seq_len,
        bf16=bf16,
        seed=config.seed,
        pool=pool,
    )
    n_parameters = sum(parameter.numel() for parameter in model.module.parameters())
    precision = "bf16" if bf16 else "fp32"
    processes = f"{world.size} processes ({loop.parallel})" if world.size > 1 else "1 process"
    reporter.note(f"{n_parameters:,} parameters, {precision}, {processes}, at step {position.step}")
    with StopSignal() as stop, store.disk_errors(f"training in {config.out}"):
        try:
            position = Trainer(machinery, loop).run(position, reporter, stop)
        except DivergedError as error:
            reporter.record({"kind": "diverged", "step": error.step, "cause": str(error)}, completed=1.0)
            _draw(config, world)
            raise
        finally:
            if pool is not None:
                pool.shutdown()
        _draw(config, world)
    return _report(config, world, position, stopped=stop.requested, n_parameters=n_parameters, precision=precision)


def _check(config: TrainConfig, model: TrainableModel, world: World) -> None:
    seq_len, n_rows = config.data.seq_len, config.loop.batch_tokens // config.data.seq_len
    if model.max_positions is not None and seq_len > model.max_positions:
        raise ModelConfigError(f"[train] data.seq_len must be at most the model's {model.max_positions}, got {seq_len}")
    if n_rows % world.size:
        raise ModelConfigError(f"[train] {world.size} processes cannot share {n_rows} sequences a step evenly")
    if world.size > 1 and config.loop.workers > 1:
        raise ModelConfigError("[train] loop.workers is for one process; start more processes instead")
    if world.size > 1 and config.loop.pause_file is not None:
        raise ModelConfigError("[train] loop.pause_file is for one process; stop the run and resume it")
    if world.size > 1 and config.loop.parallel == "fsdp" and config.optim.kind == "muon":
        raise ModelConfigError("[train] muon needs whole matrices, which fsdp does not leave; use ddp or adamw")
    if world.device.type != "cpu" and config.loop.workers > 1:
        raise ModelConfigError("[train] loop.workers is for the CPU; leave it at 1")


def _optimizer(config: TrainConfig, model: TrainableModel, pool: ThreadPoolExecutor | None, bf16: bool) -> Optimizer:
    given = config.optim
    if given.kind == "adamw":
        return AdamW(model.module, AdamWConfig(given.lr, given.betas, given.eps, given.weight_decay))
    muon = OptimConfig(
        matrix_lr=given.matrix_lr,
        vector_lr=given.lr,
        momentum=given.momentum,
        betas=given.betas,
        eps=given.eps,
        weight_decay=given.weight_decay,
        low_precision=bf16,
    )
    return MuonAdamW(model.module, muon, pool)


def _schedule(config: TrainConfig) -> CosineSchedule | Schedule:
    given = config.schedule
    if given.kind == "cosine":
        return CosineSchedule(given.warmup_steps, given.min_scale)
    return Schedule(given.warmup_steps, given.decay_fraction)


def _identity(config: TrainConfig, model: TrainableModel, data: TrainData) -> dict[str, Any]:
    """What decides which function is trained on what, in which order."""
    return {
        "seed": config.seed,
        **{f"model.{name}": value for name, value in model.config.items()},
        "data (fingerprint of the tokens)": data.fingerprint,
        "data.tokenizer (fingerprint)": data.codec.fingerprint,
        "data.block_tokens": config.block_tokens,
        "loop.batch_tokens": config.loop.batch_tokens,
        "optim.kind": config.optim.kind,
    }


def _go_on(
    store: RunDirectory,
    model: TrainableModel,
    optimizer: Optimizer,
    schedule: CosineSchedule | Schedule,
    budget: Budget,
    identity: Mapping[str, Any],
) -> Position:
    """Load the state to go on from; a fresh `Position` where there is none.

    A larger budget after the decay of a `stable` schedule has begun goes back to the end of the stable part: weights
    whose rate already fell are a poor start for more training at full rate.
    """
    steps = store.steps()
    if not steps:
        return Position()
    folder = store.folder(steps[-1])
    tensors, position, saved = load_state(folder / STATE)
    stable = store.linked(STABLE)
    if position.decayed and stable is not None and not schedule.decaying(budget.progress(position)):
        folder = store.folder(stable)
        tensors, position, saved = load_state(folder / STATE)
    for name in sorted(identity.keys() | saved.keys()):
        if identity.get(name) != saved.get(name):
            raise ValueError(
                f"[train] {folder} was trained with {name} = {saved.get(name)!r}, this configuration has "
                f"{identity.get(name)!r}; restore it, or give another --out"
            )
    try:
        for name, tensor in model.module.state_dict().items():
            copy_whole(tensor, tensors[f"model.{name}"])
        optimizer.load_state({name.removeprefix("optim."): tensor for name, tensor in tensors.items()})
    except KeyError as error:
        raise ModelConfigError(f"[train] {folder / STATE} has no tensor {error}; it is of another model") from error
    return position


def _draw(config: TrainConfig, world: World) -> None:
    if world.leads and config.loop.plot:
        # Matplotlib takes a second to import, and a run may leave the plot out.
        from vortex_engine.train.plots import draw_loss

        draw_loss(read_records(config.out / METRICS), {}, path=config.out / PLOT)


def _report(
    config: TrainConfig, world: World, position: Position, *, stopped: bool, n_parameters: int, precision: str
) -> TrainReport:
    logged = [record for record in read_records(config.out / METRICS) if record["kind"] == "train"]
    return TrainReport(
        out=str(config.out),
        step=position.step,
        n_tokens=position.n_tokens,
        seconds=position.elapsed_s,
        stopped=stopped,
        loss=float(logged[-1]["loss"]) if logged else None,
        tokens_per_s=float(logged[-1]["tokens_per_s"]) if logged else None,
        best_step=position.best_step,
        best_bits_per_byte=position.best_bits,
        n_parameters=n_parameters,
        n_processes=world.size,
        rank=world.rank,
        precision=precision,
    )
