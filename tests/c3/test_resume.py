"""A packing that was stopped anywhere goes on, and ends byte for byte as if it had never been stopped."""

import fcntl
import os
import signal
import subprocess
import sys
import warnings

import pytest

from vortex_engine.c3.pack import pack
from vortex_engine.errors import MachineError, TargetExistsError

SETTINGS = {"max_shard_bytes": 12_000, "threads": 1}


class Stop(Exception):
    pass


def stop_after(n_calls):
    calls = []

    def progress(done, total, name):
        calls.append(done)
        if len(calls) == n_calls:
            raise Stop

    return progress


@pytest.fixture
def whole(write_source, small_model, tmp_path, tree):
    """The source, and the files of an uninterrupted packing."""
    source = write_source(small_model)
    calls = []
    pack(source, tmp_path / "whole", progress=lambda *call: calls.append(call), **SETTINGS)
    return source, tree(tmp_path / "whole"), len(calls)


def test_stopped_at_every_point(whole, tmp_path, tree):
    source, expected, n_calls = whole
    assert len(expected) > 7  # several shards
    for i in range(1, n_calls + 1):
        target = tmp_path / f"out{i}"
        with pytest.raises(Stop):
            pack(source, target, progress=stop_after(i), **SETTINGS)
        assert not target.exists()
        pack(source, target, **SETTINGS)
        assert tree(target) == expected, f"stopped at call {i} of {n_calls}"
        assert not (tmp_path / f"out{i}.partial").exists()


def test_stopped_again_and_again(whole, tmp_path, tree):
    source, expected, _ = whole
    target = tmp_path / "out"
    resumed = []
    for _ in range(100):
        try:
            report = pack(source, target, progress=stop_after(len(resumed) + 2), **SETTINGS)
        except Stop:
            resumed.append(1)
        else:
            break
    assert len(resumed) > 3
    assert report.resumed_bytes > 0
    assert tree(target) == expected


KILLED = """
import os, signal, sys
from vortex_engine.c3.pack import pack
# A process started in the background of a shell inherits SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
calls = []
def progress(done, total, name):
    calls.append(done)
    if len(calls) == int(sys.argv[3]):
        os.kill(os.getpid(), int(sys.argv[4]))
pack(sys.argv[1], sys.argv[2], progress=progress, max_shard_bytes=12_000, threads=1)
"""


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_killed_process(whole, tmp_path, tree, kill):
    source, expected, n_calls = whole
    for i in (2, n_calls // 2, n_calls):
        target = tmp_path / f"out{i}"
        arguments = [sys.executable, "-c", KILLED, source, target, str(i), str(int(kill))]
        result = subprocess.run(arguments, capture_output=True, timeout=60, check=False)
        assert result.returncode == -kill
        assert not target.exists()
        assert (tmp_path / f"out{i}.partial").is_dir()
        pack(source, target, **SETTINGS)
        assert tree(target) == expected


def stopped(source, target, n_calls):
    with pytest.raises(Stop):
        pack(source, target, progress=stop_after(n_calls), **SETTINGS)
    return target.with_name(target.name + ".partial")


def test_damage_while_stopped_is_packed_again(whole, tmp_path, tree):
    source, expected, n_calls = whole
    partial = stopped(source, tmp_path / "out", n_calls)
    shard = min((partial / "model").glob("model-*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-5000] ^= 1
    shard.write_bytes(data)
    (partial / "model" / ".config.json.1.tmp").write_text("left by a kill")
    report = pack(source, tmp_path / "out", **SETTINGS)
    assert report.resumed_bytes < report.source_bytes
    assert tree(tmp_path / "out") == expected


def test_torn_journal_line(whole, tmp_path, tree):
    source, expected, n_calls = whole
    partial = stopped(source, tmp_path / "out", n_calls)
    journal = partial / "journal"
    journal.write_bytes(journal.read_bytes()[:-20])
    pack(source, tmp_path / "out", **SETTINGS)
    assert tree(tmp_path / "out") == expected


def test_another_source_starts_anew(whole, tmp_path, tree):
    source, expected, n_calls = whole
    stopped(source, tmp_path / "out", n_calls // 2)
    os.utime(source / "model.safetensors", ns=(1, 1))
    with pytest.warns(UserWarning, match="starts anew"):
        report = pack(source, tmp_path / "out", **SETTINGS)
    assert report.resumed_bytes == 0
    assert tree(tmp_path / "out") == expected


def test_another_codec_starts_anew(whole, tmp_path):
    source, _, n_calls = whole
    stopped(source, tmp_path / "out", n_calls // 2)
    with pytest.warns(UserWarning, match="starts anew"):
        report = pack(source, tmp_path / "out", codec="raw", **SETTINGS)
    assert report.codec == "raw"


def test_two_packers_on_one_target(whole, tmp_path, tree):
    source, expected, n_calls = whole
    partial = stopped(source, tmp_path / "out", n_calls // 2)
    with open(partial / "lock", "rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = tree(partial / "model")
        with pytest.raises(MachineError, match="another process"):
            pack(source, tmp_path / "out", **SETTINGS)
        assert tree(partial / "model") == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pack(source, tmp_path / "out", **SETTINGS)
    assert tree(tmp_path / "out") == expected


def test_existing_target_is_left_alone(whole, tmp_path):
    source, _, _ = whole
    for target in (tmp_path / "file", tmp_path / "link", tmp_path / "empty"):
        if target.name == "file":
            target.write_text("precious")
        elif target.name == "link":
            target.symlink_to("nowhere")
        else:
            target.mkdir()
        with pytest.raises(TargetExistsError, match=target.name):
            pack(source, target)
        assert not target.with_name(target.name + ".partial").exists()
    assert (tmp_path / "file").read_text() == "precious"


def test_target_that_appears_while_packing(whole, tmp_path):
    source, _, _ = whole
    target = tmp_path / "out"

    def progress(done, total, name):
        if done == total:
            target.mkdir()
            (target / "precious").write_text("kept")

    with pytest.raises(TargetExistsError, match="appeared"):
        pack(source, target, progress=progress, **SETTINGS)
    assert (target / "precious").read_text() == "kept"


def test_source_inside_the_working_directory(whole, tmp_path):
    source, _, _ = whole
    inside = tmp_path / "out.partial" / "model"
    inside.parent.mkdir()
    source.rename(inside)
    with pytest.raises(ValueError, match="outside"):
        pack(inside, tmp_path / "out")
    assert (inside / "config.json").exists()
