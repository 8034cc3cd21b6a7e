"""The working directory `DST.partial/` of a packing: locked by one packer, resumed, discarded or published.

DST.partial/lock       held (flock) while a packer works
DST.partial/journal    finished matrices
DST.partial/model/     becomes DST by one rename
DST.partial/work/      what a calibrator keeps while it works
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import warnings
from collections.abc import Generator
from pathlib import Path

from vortex_engine.c3.files import crc_of_range, fsync_directory, open_fd
from vortex_engine.c3.journal import MatrixRecord, read_journal
from vortex_engine.c3.plan import PackPlan
from vortex_engine.errors import MachineError, TargetExistsError


class PartialDirectory:
    """Paths and life of one `DST.partial/`."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.path = target.with_name(target.name + ".partial")
        self.model = self.path / "model"
        self.journal = self.path / "journal"
        self.work = self.path / "work"
        self._lock = self.path / "lock"

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """Make the directory and hold its lock.

        Raises:
            MachineError: another packer holds it.
            TargetExistsError: the target is there, perhaps since a moment ago.
        """
        self.path.mkdir(exist_ok=True)
        with open_fd(self._lock, os.O_RDWR | os.O_CREAT) as fd:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise MachineError(
                    f"[pack] another process is packing into {self._target} ({self._lock} is locked)"
                ) from error
            if os.path.lexists(self._target):
                self._remove_remains()
                raise TargetExistsError(f"[pack] {self._target} exists already; remove it or choose another target")
            yield

    def resume(self, fingerprint: dict[str, object], plan: PackPlan) -> list[MatrixRecord]:
        """The matrices that an earlier packing of the same source finished, each with its bytes checked.

        Everything else an earlier packing left is removed.
        """
        found, records = read_journal(self.journal)
        if found != fingerprint:
            if self.model.exists():
                warnings.warn(
                    f"[pack] {self.path} is of another source, setting or version; packing starts anew", stacklevel=2
                )
                shutil.rmtree(self.model)
            records = []
        self.model.mkdir(exist_ok=True)
        finished = self._intact_records(records, plan)
        shards = {record.shard for record in finished}
        for entry in self.model.iterdir():
            if entry.name not in shards:
                entry.unlink()
        return finished

    def discard(self) -> None:
        """Remove the directory; the lock goes last."""
        shutil.rmtree(self.model, ignore_errors=True)
        self._remove_remains()

    def publish(self) -> None:
        """Turn the finished model directory into the target; a kill leaves the one or the other."""
        fsync_directory(self.model)
        try:
            self.model.rename(self._target)
        except OSError as error:
            if os.path.lexists(self._target):
                raise TargetExistsError(f"[pack] {self._target} appeared while packing into it") from error
            raise
        fsync_directory(self._target.parent)
        self._remove_remains()

    def _remove_remains(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        self.journal.unlink(missing_ok=True)
        self.journal.with_suffix(".tmp").unlink(missing_ok=True)
        self._lock.unlink(missing_ok=True)
        # Something of the user's in there is left alone, with the directory.
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _intact_records(self, records: list[MatrixRecord], plan: PackPlan) -> list[MatrixRecord]:
        expected = [(shard, tensor.name) for shard in plan.shards for tensor in shard.matrices]
        intact: list[MatrixRecord] = []
        for (shard, name), record in zip(expected, records, strict=False):
            last = intact[-1] if intact else None
            offset = last.offset + last.n_bytes if last and last.shard == shard.name else shard.data_offset
            if (record.name, record.shard, record.offset) != (name, shard.name, offset):
                break
            if not self._is_intact(record):
                break
            intact.append(record)
        return intact

    def _is_intact(self, record: MatrixRecord) -> bool:
        try:
            with open_fd(self.model / record.shard) as fd:
                if os.fstat(fd).st_size < record.offset + record.n_bytes:
                    return False
                return crc_of_range(fd, record.offset, record.n_bytes) == record.crc32c
        except FileNotFoundError:
            return False
