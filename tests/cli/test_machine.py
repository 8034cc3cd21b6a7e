"""The measured machine, and the sentence that says what bounds the speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import vortex_engine as vx
from vortex_engine.machine import (
    cgroup_limit_bytes,
    describe_machine,
    disk_read_rate,
    memory_read_bandwidth,
    o_direct_problem,
    peak_rss_bytes,
)

BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "benchmarks"


def test_the_description_is_json_and_complete() -> None:
    machine = json.loads(json.dumps(describe_machine()))
    assert machine["n_cores"] >= 1 and machine["cpu"] and machine["kernel"] and machine["date"]
    assert machine["versions"]["vortex-engine"] == vx.__version__


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc: needs Linux")
def test_memory_is_read_from_the_system() -> None:
    peak = peak_rss_bytes()
    assert peak is not None and peak > 1 << 20
    limit = cgroup_limit_bytes()
    assert limit is None or limit > peak


def test_bandwidth_is_that_of_some_memory() -> None:
    rate = memory_read_bandwidth(n_threads=2, buffer_bytes=32 << 20, repeats=2)
    assert 1e8 < rate < 1e13


@pytest.mark.parametrize("n_bytes", [1, 4096, (3 << 20) + 17])
def test_disk_rate_of_any_file(n_bytes: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(n_bytes))
    assert disk_read_rate(tmp_path / "file", max_bytes=4 << 20, max_s=0.2) > 0


def test_o_direct_gives_a_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(8192))
    assert o_direct_problem(tmp_path / "file") is None or "file system" in str(o_direct_problem(tmp_path / "file"))
    assert o_direct_problem(tmp_path / "missing")


def test_the_random_model_of_the_benchmarks_packs_and_runs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    command = [sys.executable, str(BENCHMARKS / "make_model.py"), str(source), "--shape", "deep"]
    subprocess.run(command, check=True, capture_output=True)
    vx.pack(source, tmp_path / "model.c3")
    with vx.load(tmp_path / "model.c3") as model:
        out = model.generate("def", max_new_tokens=3)
    assert len(out.token_ids) == 3 and out.finish_reason == "length"
