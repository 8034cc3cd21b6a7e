"""A full disk: one error that says what is needed and free, and nothing left behind.

A real full disk needs root to mount; RLIMIT_FSIZE is a limit that the kernel enforces on anybody (EFBIG), and ENOSPC
itself comes from a pwrite that writes what fits and then fails, as a file system does.
"""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from vortex_engine.c3 import pack as pack_module
from vortex_engine.c3.pack import pack
from vortex_engine.errors import MachineError

LIMITED = """
import resource, sys
from vortex_engine.c3.pack import pack
from vortex_engine.errors import MachineError
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    pack(sys.argv[1], sys.argv[2], threads=1)
except MachineError as error:
    print(error)
"""


def test_file_size_limit_of_the_kernel(write_source, small_model, tmp_path):
    source = write_source(small_model)
    arguments = [sys.executable, "-c", LIMITED, source, tmp_path / "out"]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    assert "disk is full" in result.stdout
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("room", [0, 5000, 40_000, 100_000])
def test_no_space_left(write_source, small_model, tmp_path, monkeypatch, room):
    source = write_source(small_model)
    left = [room]

    def pwrite(fd, data, offset, real=os.pwrite):
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        n_written = real(fd, memoryview(data)[: left[0]], offset)
        left[0] -= n_written
        return n_written

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(MachineError, match=r"needs at least \d+ bytes .* \d+ bytes free"):
        pack(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()
    monkeypatch.undo()
    pack(source, tmp_path / "out")


def test_too_small_a_disk_is_seen_before_the_work(write_source, tmp_path, monkeypatch):
    source = write_source({"a.weight": ("BF16", np.zeros((640, 640), dtype=np.uint16))})
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(pack_module.shutil, "disk_usage", lambda path: usage)
    calls = []
    with pytest.raises(MachineError, match="1000 bytes free"):
        pack(source, tmp_path / "out", progress=lambda *call: calls.append(call))
    assert calls == []
    assert not (tmp_path / "out.partial").exists()


def test_other_failures_keep_the_work(write_source, small_model, tmp_path, monkeypatch):
    source = write_source(small_model)
    seen = []

    def pwrite(fd, data, offset, real=os.pwrite):
        seen.append(1)
        if len(seen) > 40:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(MachineError, match=r"cannot write .*out\.partial"):
        pack(source, tmp_path / "out")
    monkeypatch.undo()
    assert pack(source, tmp_path / "out").resumed_bytes > 0
