"""The directory of a run: whole checkpoints `step_*`, and the links `last`, `best` and `stable` that name some of them.

A checkpoint is a directory with `state.safetensors` (weights, optimizer, position) and `model/`, the weights alone as a
Hugging Face directory. It is written under a hidden name and appears by rename, and a link is replaced by rename, so a
process killed at any moment leaves the old or the new.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from vortex_engine.errors import MachineError, ModelConfigError, TargetExistsError
from vortex_engine.train.files import NO_ROOM, save_tensors_atomically, sync_directory

__all__ = ["BEST", "LAST", "MODEL", "STABLE", "STATE", "Position", "RunDirectory", "load_state", "save_state"]

LAST, BEST, STABLE = "last", "best", "stable"
STATE, MODEL = "state.safetensors", "model"
_PREFIX, _PARTIAL = "step_", ".partial"
_FORMAT = "1"


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    Attributes:
        elapsed_s: seconds of training, without pauses.
        decayed: the learning rate of a `stable` schedule has begun to fall.
        best_step, best_bits: the evaluation with the fewest bits per byte so far.
    """

    step: int = 0
    n_tokens: int = 0
    elapsed_s: float = 0.0
    decayed: bool = False
    best_step: int | None = None
    best_bits: float | None = None


def save_state(
    path: Path, tensors: Mapping[str, torch.Tensor], position: Position, identity: Mapping[str, Any]
) -> None:
    """Replace `path` by the training state.

    Args:
        tensors: whole, on the CPU.
        identity: what a run must have in common with the one that goes on from here.
    """
    metadata = {
        "format": _FORMAT,
        # A float's JSON reads back as the same float, so a resumed schedule goes on from the same number.
        "position": json.dumps(asdict(position)),
        "identity": json.dumps(dict(identity)),
        "crc32": str(_crc32(tensors)),
    }
    save_tensors_atomically(path, tensors, metadata=metadata)


def load_state(path: Path) -> tuple[dict[str, torch.Tensor], Position, dict[str, Any]]:
    """Tensors, position and identity of a checkpoint.

    Raises:
        ModelConfigError: not what `save_state` wrote.
    """
    remedy = f"remove {path.parent} and resume from an older step_*"
    try:
        with _open(path) as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    except (SafetensorError, OSError) as error:
        raise ModelConfigError(f"[train] {path} is damaged: {error}; {remedy}") from error
    if metadata.get("format") != _FORMAT:
        raise ModelConfigError(f"[train] {path} is no checkpoint of format {_FORMAT} of this trainer; {remedy}")
    if int(metadata["crc32"]) != _crc32(tensors):
        raise ModelConfigError(f"[train] {path} is damaged: its tensors have another CRC-32; {remedy}")
    return tensors, Position(**json.loads(metadata["position"])), json.loads(metadata["identity"])


class RunDirectory:
    """The checkpoints of one run, written by one process.

    Args:
        keep: newest checkpoints that stay besides those that links name.
    """

    def __init__(self, path: Path, *, keep: int) -> None:
        self.path = path
        self._keep = keep

    @contextmanager
    def held(self, *, resume: bool) -> Generator[None]:
        """While entered, no other process trains here; on entry, what a killed process left unfinished is cleared.

        Raises:
            TargetExistsError: it has checkpoints and `resume` is false, or another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # The kernel forgets the lock of a killed process.
        handle = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TargetExistsError(f"[train] another process trains in {self.path}; give another --out") from None
            self._begin(resume=resume)
            yield
        finally:
            os.close(handle)

    def _begin(self, *, resume: bool) -> None:
        if self.steps() and not resume:
            raise TargetExistsError(
                f"[train] {self.path} holds a run at step {self.steps()[-1]}; go on with --resume or give another --out"
            )
        for litter in self.path.glob(f".*{_PARTIAL}"):
            _remove(litter)

    def steps(self) -> list[int]:
        """Steps of all whole checkpoints, ascending."""
        names = (entry.name for entry in self.path.glob(f"{_PREFIX}*"))
        return sorted(int(name.removeprefix(_PREFIX)) for name in names if name.removeprefix(_PREFIX).isdigit())

    def folder(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.path / f"{_PREFIX}{step:08d}"

    def linked(self, name: str) -> int | None:
        """The step that a link names; None where there is no such link or its checkpoint is gone."""
        link = self.path / name
        if not (link.is_symlink() and link.exists()):
            return None
        return int(os.readlink(link).removeprefix(_PREFIX))

    def go_on_from(self, position: Position) -> None:
        """Forget checkpoints after `position`, and let the links name what they named then.

        A process may be killed between a checkpoint and its links, or a run may go back to `stable`.
        """
        for step in self.steps():
            if step > position.step:
                _remove(self.folder(step))
        self._link(LAST, position.step)
        if position.best_step is not None and self.folder(position.best_step).exists():
            self._link(BEST, position.best_step)
        for name in (BEST, STABLE):
            if self.linked(name) is None:
                (self.path / name).unlink(missing_ok=True)

    def save(self, step: int, write: Callable[[Path], None], links: Sequence[str]) -> None:
        """Let `write` fill the checkpoint of `step`, unless it is there; then link it and drop old ones.

        Raises:
            MachineError: the disk is full or fails; every checkpoint there was is kept.
        """
        folder = self.folder(step)
        partial = self.path / f".{folder.name}{_PARTIAL}"
        with self.disk_errors(f"saving step {step}"):
            if not folder.exists():
                try:
                    partial.mkdir()
                    write(partial)
                    sync_directory(partial)
                    partial.rename(folder)
                except BaseException:
                    _remove(partial)
                    raise
                sync_directory(self.path)
            for name in links:
                self._link(name, step)
            named = {self.linked(name) for name in (LAST, BEST, STABLE)}
            for old in self.steps()[: -self._keep]:
                if old not in named:
                    _remove(self.folder(old))

    @contextmanager
    def disk_errors(self, doing: str) -> Generator[None]:
        """Errors of the disk become a MachineError that says what is kept."""
        try:
            yield
        except OSError as error:
            if isinstance(error, MachineError):
                raise
            reason = "the disk is full" if error.errno in NO_ROOM else str(error)
            raise MachineError(
                f"[train] {doing}: {reason}; {self.kept()}; free some space and go on with --resume"
            ) from error

    def kept(self) -> str:
        """Which checkpoint is the last good one, in words."""
        steps = self.steps()
        return f"the last good checkpoint is {self.folder(steps[-1])}" if steps else "there is no checkpoint yet"

    def _link(self, name: str, step: int) -> None:
        temporary = self.path / f".{name}{_PARTIAL}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(self.folder(step).name)
        temporary.replace(self.path / name)
        sync_directory(self.path)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        # Under a hidden name first: a process killed while it removes leaves no half of a checkpoint.
        hidden = path if path.name.endswith(_PARTIAL) else path.rename(path.with_name(f".{path.name}{_PARTIAL}"))
        shutil.rmtree(hidden)


def _open(path: Path) -> Any:  # safetensors leaves its types open
    return safe_open(path, framework="pt")


def _crc32(tensors: Mapping[str, torch.Tensor]) -> int:
    crc = 0
    for name in sorted(tensors):
        data: Any = tensors[name].detach().contiguous().flatten().view(torch.uint8).numpy()
        crc = zlib.crc32(data, crc)
    return crc
