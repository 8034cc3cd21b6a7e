"""Whether this machine and this installation can do the job; every failure carries its fix."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from vortex_engine.errors import BackendUnavailableError, VortexError
from vortex_engine.machine import describe_machine, o_direct_problem
from vortex_engine.profile import available_ram_bytes, format_bytes, n_cores

__all__ = ["Check", "DoctorReport", "run_doctor"]

Status = Literal["ok", "note", "failed"]

_PACKAGES = ("numpy", "safetensors", "lz4", "tokenizers", "pydantic", "PyYAML", "typer", "rich")
_OPTIONAL = {"torch": "gpu", "transformers": "hf"}
_MIN_FREE_DISK_BYTES = 1 << 30


@dataclass(frozen=True)
class Check:
    """One finding; `fix` is there when it failed or when something is missing that could be had."""

    name: str
    status: Status
    detail: str
    fix: str | None = None


@dataclass(frozen=True)
class DoctorReport:
    """All findings, the table of ops, and the machine."""

    checks: tuple[Check, ...]
    ops: tuple[dict[str, Any], ...]
    machine: dict[str, object]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(check.status != "failed" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON document."""
        return {"ok": self.ok, **asdict(self)}


def run_doctor(
    *, deep: bool = False, model: str = "nano", on_check: Callable[[int, int, str], None] | None = None
) -> DoctorReport:
    """Examine machine and installation, in under two seconds.

    Args:
        deep: Also read every tile of the model, and compare its text and logits over SIMD levels and budgets.
        model: Packed model directory or "nano".
        on_check: Called with (checks done, checks in all, what is checked).
    """
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("python", _python),
        ("packages", _packages),
        ("extras", _extras),
        ("processor", _processor),
        ("ops", _ops),
        ("memory", _memory),
        ("disk", _disk),
        ("O_DIRECT", _direct_reads),
        ("model", lambda: _model(model)),
    ]
    if deep:
        from vortex_engine.doctor import deep as deep_checks

        checks += [
            ("tiles", lambda: Check("tiles", "ok", deep_checks.verify_tiles(model))),
            ("codec", lambda: Check("codec", "ok", deep_checks.round_trip_every_bf16())),
            ("same bits", lambda: Check("same bits", "ok", deep_checks.compare_bits(model))),
        ]
    found: list[Check] = []
    for number, (name, check) in enumerate(checks):
        if on_check is not None:
            on_check(number, len(checks), name)
        try:
            found.append(check())
        except VortexError as error:
            found.append(Check(name, "failed", str(error), _FIXES.get(name, "see the message")))
    return DoctorReport(tuple(found), tuple(_op_table()), describe_machine())


_FIXES = {
    "processor": "unset VORTEX_SIMD and VORTEX_BACKEND, or set them to a level that is listed",
    "ops": "unset VORTEX_SIMD and VORTEX_BACKEND, or set them to a level that is listed",
    "model": "pip install --force-reinstall vortex-engine, or pack the model again",
    "tiles": "the disk changed the file: pip install --force-reinstall vortex-engine, or pack the model again",
    "codec": "report it with the output of `vortex doctor --json`: packing here would not be lossless",
    "same bits": "report it with the output of `vortex doctor --json`: results here depend on SIMD level or budget",
}


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    return Check("python", "ok", f"{found}, vortex {version('vortex-engine')}")


def _packages() -> Check:
    found: list[str] = []
    missing: list[str] = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check("packages", "failed", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return Check("packages", "ok", ", ".join(found))


def _extras() -> Check:
    there = [name for name in _OPTIONAL if importlib.util.find_spec(name) is not None]
    absent = [name for name in _OPTIONAL if name not in there]
    fix = "; ".join(f"pip install 'vortex-engine[{_OPTIONAL[name]}]' for {name}" for name in absent) or None
    detail = ", ".join([f"{name} {version(name)}" for name in there] + [f"no {name} (not needed)" for name in absent])
    return Check("extras", "ok" if not absent else "note", detail, fix)


def _processor() -> Check:
    from vortex_engine import _native, ops

    levels = _native.simd_levels()
    context = ops.make_context()
    detail = f"{n_cores()} cores, SIMD levels {', '.join(levels)}; in use: {context.backend} {context.simd}"
    if levels == ["scalar"]:
        return Check("processor", "note", detail, "a processor with AVX2, AVX-512 or NEON computes many times faster")
    return Check("processor", "ok", detail)


def _ops() -> Check:
    broken = [row for row in _op_table() if row["backend"] == "cpu" and row["reason"] is not None]
    if broken:
        raise BackendUnavailableError("; ".join(f"{row['op']}: {row['reason']}" for row in broken))
    return Check("ops", "ok", f"{len({row['op'] for row in _op_table()})} ops with native code")


def _op_table() -> list[dict[str, Any]]:
    from vortex_engine import ops

    return [{"op": impl.op, "backend": impl.backend, "reason": impl.supports(None)} for impl in ops.implementations()]


def _memory() -> Check:
    free = available_ram_bytes()
    return Check("memory", "ok", f"{format_bytes(free)} can be taken, half of it by default")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    detail = f"{format_bytes(free)} free here"
    if free < _MIN_FREE_DISK_BYTES:
        return Check("disk", "failed", detail, "free some space, or work on another disk")
    return Check("disk", "ok", detail)


def _direct_reads() -> Check:
    with tempfile.NamedTemporaryFile(dir=_writable_folder(), prefix="vortex-probe-") as probe:
        probe.write(bytes(8192))
        probe.flush()
        problem = o_direct_problem(Path(probe.name))
        where = Path(probe.name).parent
    if problem is not None:
        fix = "keep packed models on a file system that allows it, such as ext4 or xfs"
        return Check("O_DIRECT", "note", f"reads fall back to buffered: {problem}", fix)
    return Check("O_DIRECT", "ok", f"reads in {where} go past the page cache")


def _writable_folder() -> Path:
    here = Path.cwd()
    try:
        with tempfile.NamedTemporaryFile(dir=here):
            return here
    except OSError:
        return Path(tempfile.gettempdir())


def _model(model: str) -> Check:
    from vortex_engine.c3.directory import open_directory
    from vortex_engine.decode.load import model_path

    directory = open_directory(model_path(model))
    n_tiles = sum(matrix.n_tiles for matrix in directory.matrices.values())
    size = format_bytes(directory.packed_bytes)
    return Check("model", "ok", f"{model}: {size}, {n_tiles} tiles; all but the tiles checked (--deep reads them)")
