"""The machine in numbers: what it is, and how fast its memory and disk really are."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vortex_engine.profile import available_ram_bytes, n_cores

__all__ = [
    "cgroup_limit_bytes",
    "describe_machine",
    "disk_read_rate",
    "memory_read_bandwidth",
    "o_direct_problem",
    "peak_rss_bytes",
]

_SECTOR_BYTES = 4096
_READ_BYTES = 1 << 20
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_INTERESTING_FLAGS = (
    *("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_bf16"),
    *("asimd", "asimddp", "crc32"),
)


def cgroup_limit_bytes() -> int | None:
    """The memory limit of this process's control group, None where there is none."""
    for name in (*_own_cgroup_limits(), *_CGROUP_LIMITS):
        text = _read_text(name)
        # An unlimited group says "max" (v2) or a number near 2**63 (v1).
        if text.strip().isdigit() and int(text) < 1 << 60:
            return int(text)
    return None


def peak_rss_bytes() -> int | None:
    """Largest resident size this process has had, None where the system does not say."""
    return _proc_kib("/proc/self/status", "VmHWM:")


def describe_machine() -> dict[str, object]:
    """What a benchmark's numbers depend on: processor, memory, system, versions and the date."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features") or "").split()  # x86, Arm
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cpu_flags": [flag for flag in _INTERESTING_FLAGS if flag in flags],
        "n_cores": n_cores(),
        "ram_bytes": _proc_kib("/proc/meminfo", "MemTotal:"),
        "cgroup_limit_bytes": cgroup_limit_bytes(),
        "kernel": platform.release(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("vortex-engine", "numpy", "safetensors", "tokenizers", "torch")},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def memory_read_bandwidth(*, n_threads: int, buffer_bytes: int | None = None, repeats: int = 5) -> float:
    """Bytes per second that `n_threads` read together from memory: the best of several passes.

    The buffer should exceed the last-level cache (300 MB on some servers); by default it is 1 GiB, or a quarter of the
    free memory where that is less.

    Two functions of the C library take turns, and the faster one counts: memchr looks for a byte that is not there in
    one stream, memcmp compares two equal halves in two. They read every byte with the widest loads, do almost nothing
    else, and ctypes lets the threads run at once.
    """
    libc = ctypes.CDLL(None)
    address, size = ctypes.c_void_p, ctypes.c_size_t
    libc.memchr.restype, libc.memchr.argtypes = address, (address, ctypes.c_int, size)
    libc.memcmp.argtypes = (address, address, size)
    if buffer_bytes is None:
        buffer_bytes = min(1 << 30, available_ram_bytes() // 4)
    half = buffer_bytes // n_threads // 2
    buffers = [mmap.mmap(-1, 2 * half) for _ in range(n_threads)]
    views = [ctypes.c_char.from_buffer(buffer) for buffer in buffers]
    addresses = [ctypes.addressof(view) for view in views]
    for buffer, start in zip(buffers, addresses, strict=True):
        if hasattr(mmap, "MADV_HUGEPAGE"):
            buffer.madvise(mmap.MADV_HUGEPAGE)  # so that address translation does not count
        ctypes.memset(start, 1, 2 * half)

    def one_stream(start: int) -> None:
        libc.memchr(start, 0, 2 * half)

    def two_streams(start: int) -> None:
        libc.memcmp(start, start + half, half)

    best = 0.0
    with ThreadPoolExecutor(n_threads) as threads:
        for read in (one_stream, two_streams) * (repeats + 1):
            start = time.perf_counter()
            list(threads.map(read, addresses))
            best = max(best, 2 * half * n_threads / (time.perf_counter() - start))
    return best


def o_direct_problem(file: Path) -> str | None:
    """None when a file can be read past the page cache (O_DIRECT), else the reason why not."""
    flag = getattr(os, "O_DIRECT", None)
    if flag is None:
        return f"{platform.system()} has no O_DIRECT"
    try:
        descriptor = os.open(file, os.O_RDONLY | flag)
        try:
            with mmap.mmap(-1, _SECTOR_BYTES) as buffer:
                os.preadv(descriptor, [buffer], 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"the file system refuses it ({error.strerror})"
    return None


def disk_read_rate(path: Path, *, n_threads: int = 2, max_bytes: int = 512 << 20, max_s: float = 2.0) -> float:
    """Bytes per second read from a file past the page cache, in requests of 1 MiB from `n_threads` threads.

    A file system without O_DIRECT is read through the page cache after its pages were dropped.

    Args:
        path: A file of at least one request; a smaller one is read whole, again and again.
        n_threads: Requests under way at once.
        max_bytes: Stop after this much.
        max_s: Stop after this time.
    """
    direct = o_direct_problem(path) is None
    descriptor = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))
    try:
        if not direct and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        offsets = range(0, max(1, path.stat().st_size - _READ_BYTES + 1), _READ_BYTES)
        deadline = time.perf_counter() + max_s
        start = time.perf_counter()
        with ThreadPoolExecutor(n_threads) as threads:
            limit = max_bytes // n_threads
            jobs = [
                threads.submit(_read_until, descriptor, list(offsets[i::n_threads]) or [0], limit, deadline)
                for i in range(n_threads)
            ]
            n_bytes = sum(job.result() for job in jobs)
        return n_bytes / (time.perf_counter() - start)
    finally:
        os.close(descriptor)


def _read_until(descriptor: int, offsets: list[int], max_bytes: int, deadline: float) -> int:
    n_bytes = 0
    with mmap.mmap(-1, _READ_BYTES) as buffer:
        while n_bytes < max_bytes and time.perf_counter() < deadline:
            for offset in offsets:
                n_bytes += os.preadv(descriptor, [buffer], offset)
                if n_bytes >= max_bytes or time.perf_counter() >= deadline:
                    break
    return n_bytes


def _own_cgroup_limits() -> list[str]:
    names: list[str] = []
    for line in _read_text("/proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            names.append(f"/sys/fs/cgroup{group}/memory.max")
        elif "memory" in controllers.split(","):
            names.append(f"/sys/fs/cgroup/memory{group}/memory.limit_in_bytes")
    return names


def _read_text(name: str) -> str:
    path = Path(name)
    return path.read_text() if path.is_file() else ""


def _proc_kib(name: str, key: str) -> int | None:
    for line in _read_text(name).splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return None


def _cpuinfo(key: str) -> str | None:
    for line in _read_text("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
