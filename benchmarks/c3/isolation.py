"""Measured programs run alone: in a process of their own, where asked inside a memory cgroup with a cold page cache."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.c3.report import MissingPeerError

_HERE = Path(__file__).resolve().parent
_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")


@dataclass(frozen=True)
class MemoryGroup:
    """A memory cgroup; `enter` is the file a process writes itself into."""

    enter: Path
    peak: Path

    def peak_bytes(self) -> int | None:
        """The most the group has held, page cache included."""
        return int(self.peak.read_text()) if self.peak.is_file() else None


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Generator[MemoryGroup]:
    """A fresh memory cgroup of that size without swap, removed at the end; needs root.

    Raises:
        MissingPeerError: no cgroup can be made here.
    """
    v1 = (_V1 / "memory.limit_in_bytes").is_file()
    folder = (_V1 if v1 else _V2) / f"vortex-bench-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(limit_bytes))
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise MissingPeerError(f"memory cgroup: {error}; run as root where cgroups can be made") from error
    swap = folder / ("memory.memsw.limit_in_bytes" if v1 else "memory.swap.max")
    if swap.is_file():
        swap.write_text(str(limit_bytes) if v1 else "0")
    try:
        yield MemoryGroup(folder / "cgroup.procs", folder / ("memory.max_usage_in_bytes" if v1 else "memory.peak"))
    finally:
        folder.rmdir()


def drop_page_cache() -> None:
    """Empty the page cache.

    Raises:
        MissingPeerError: this process may not.
    """
    os.sync()
    try:
        _DROP_CACHES.write_text("3")
    except OSError as error:
        raise MissingPeerError(f"cold page cache: {error}; run as root") from error


def run_alone(command: Sequence[str], group: MemoryGroup | None = None, timeout_s: float = 300.0) -> str:
    """Standard output of a command, started inside `group` where given.

    Raises:
        MissingPeerError: it failed, was killed for its memory, or took too long; names the last line it wrote.
    """
    line = list(command)
    name = Path(command[1] if command[0] == sys.executable else command[0]).name
    if group is not None:
        line = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group.enter), *line]
    # No program may look for a model on the network.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, errors="replace", check=False, timeout=timeout_s, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise MissingPeerError(f"{name}: no result after {timeout_s:.0f} s") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        why = "killed, out of memory" if done.returncode in (-9, 137) else f"exit code {done.returncode}"
        raise MissingPeerError(f"{name}: {why}: {last}")
    return done.stdout


def run_script(name: str, job: dict[str, Any], group: MemoryGroup | None = None) -> dict[str, Any]:
    """The last line of a script of this folder as JSON, for `job` as its argument."""
    output = run_alone([sys.executable, str(_HERE / name), json.dumps(job)], group)
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    if group is not None:
        result["group_peak_bytes"] = group.peak_bytes()
    return result
