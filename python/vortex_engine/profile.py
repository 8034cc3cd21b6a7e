"""What this machine may spend: byte quantities, free memory, cores and the default RAM budget."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vortex_engine.errors import MachineError

__all__ = ["available_ram_bytes", "default_ram_budget", "format_bytes", "n_cores", "parse_bytes"]

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_QUANTITY = re.compile(r"(\d{1,20})(?:\.(\d{1,9}))?\s*([A-Za-z]*)", re.ASCII)
_MAX_BYTES = 2**63 - 1
_PAGE_BYTES = 4096


def parse_bytes(value: int | str, name: str = "byte quantity") -> int:
    """A byte count from an int or a string such as `400000B`, `64MiB`, `1.5GiB`, `2GB`.

    Args:
        value: KB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB powers of 1024; no unit means bytes.
        name: what the error message calls the value.

    Raises:
        ValueError: anything else, a negative count, or a fraction of a byte.
    """
    if type(value) not in (int, str):
        raise ValueError(f"{name} must be an int or a string such as '64MiB', got {value!r}")
    if isinstance(value, int):
        n_bytes = value
    else:
        match = _QUANTITY.fullmatch(value.strip())
        unit = _UNITS.get(match.group(3).lower()) if match else None
        if match is None or unit is None:
            raise ValueError(f"{name} must look like 400000B, 64MiB, 1.5GiB or 2GB, got {value!r}")
        fraction = match.group(2) or ""
        # Whole numbers only: 0.1 GB is exactly 100,000,000 bytes, as binary floats would not have it.
        scaled = int(match.group(1) + fraction) * unit
        n_bytes, rest = divmod(scaled, 10 ** len(fraction))
        if rest and unit == 1:
            raise ValueError(f"{name} must be a whole number of bytes, got {value!r}")
    if not 0 <= n_bytes <= _MAX_BYTES:
        raise ValueError(f"{name} must lie between 0 and {_MAX_BYTES} bytes, got {value!r}")
    return n_bytes


def format_bytes(n_bytes: int) -> str:
    """A byte count for people: `400000 B` stays exact below 1 MiB, larger ones get one decimal and a binary unit."""
    if abs(n_bytes) < 2**20:
        return f"{n_bytes} B"
    value = n_bytes / 2**20
    for unit in ("MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def n_cores() -> int:
    """CPU cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_ram_bytes(proc: Path = Path("/proc"), cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes this process could still use: the machine's available memory, less where a cgroup (v1 or v2) allows less.

    Raises:
        MachineError: the system does not say; the caller then names a budget.
    """
    candidates = [_machine_available(proc), *_cgroup_available(proc, cgroup_root)]
    known = [n for n in candidates if n is not None]
    if not known:
        raise MachineError("this system does not tell how much memory is available; give ram_budget, such as '2GiB'")
    return max(min(known), 0)


def default_ram_budget(weight_bytes: int, free_bytes: int) -> int:
    """All weights if they fit in half of the free memory, else that half in whole pages."""
    half = free_bytes // 2
    return weight_bytes if weight_bytes <= half else half // _PAGE_BYTES * _PAGE_BYTES


def _machine_available(proc: Path) -> int | None:
    for line in _read(proc / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _cgroup_available(proc: Path, root: Path) -> list[int]:
    """What every memory cgroup above this process still allows; caches it can drop count as free."""
    free: list[int] = []
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, _, entry = line.partition(":")
        controllers, _, path = entry.partition(":")
        if controllers == "":
            base, limit_file, usage_file, cache_key = root, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit_file, usage_file = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache_key = "total_inactive_file"
        else:
            continue
        # A container sees its own cgroup as the root, while /proc may show the path as the host has it.
        folder = base / path.strip("/")
        for level in (folder, *folder.parents):
            limit, usage = _read(level / limit_file).strip(), _read(level / usage_file).strip()
            if limit.isdigit() and usage.isdigit() and int(limit) < 2**60:
                free.append(int(limit) - int(usage) + _stat_value(level / "memory.stat", cache_key))
            if level == base:
                break
    return free


def _stat_value(path: Path, key: str) -> int:
    for line in _read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdigit():
            return int(value)
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # not Linux, or a controller that is not mounted here
