"""Killed runs and full disks: what is on the disk is always whole, and the run goes on from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[train]'")

from tests.train.tiny_runs import STEPS, assert_same_bits, cut_after, state_of, tiny_config, write_text

from vortex_engine.errors import MachineError, TargetExistsError
from vortex_engine.train.checkpoint import RunDirectory, load_state
from vortex_engine.train.launch import train


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text, and the run `whole` with a checkpoint of every step; read-only."""
    folder = write_text(tmp_path_factory.mktemp("runs"))
    train(tiny_config(folder, "whole"), quiet=True)
    return folder


def finish(folder: Path, out: str) -> None:
    """Resume a run to its end, and compare it with the one that nothing happened to."""
    train(tiny_config(folder, out), resume=True, quiet=True)
    assert_same_bits(state_of(folder / out), state_of(folder / "whole"))
    hidden = [path.name for path in (folder / out).iterdir() if path.name.startswith(".")]
    assert not hidden


# Children of one process that has imported torch and computed nothing yet: importing takes longer than these runs.
KILLER = """
import os, signal, sys, time
from pathlib import Path
from vortex_engine.train.config import read_config
from vortex_engine.train.launch import train
folder = Path(sys.argv[1])
for place, wait_s in enumerate(map(float, sys.argv[2:])):
    config = read_config(folder / "run.yaml", values={"out": str(folder / f"killed_{place}")})
    child = os.fork()
    if child == 0:
        train(config, quiet=True)
        os._exit(0)
    limit_s = time.monotonic() + 60
    while not (config.out / f"step_{place % 3 + 1:08d}").exists():
        assert time.monotonic() < limit_s
        time.sleep(0.0005)
    time.sleep(wait_s)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
"""
WAITS_S = (0.0, 0.004, 0.011, 0.02)


def test_a_run_killed_at_any_moment_goes_on(whole: Path) -> None:
    (whole / "run.yaml").write_text(tiny_config(whole, "whole").to_yaml())
    command = [sys.executable, "-c", KILLER, str(whole), *map(str, WAITS_S)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    for place in range(len(WAITS_S)):
        store = RunDirectory(whole / f"killed_{place}", keep=1)
        assert store.steps()[-1] < STEPS
        for step in store.steps():
            load_state(store.folder(step) / "state.safetensors")
        finish(whole, f"killed_{place}")


def test_every_state_between_a_checkpoint_and_its_links_is_resumed(whole: Path) -> None:
    # Killed while writing step 5, with half a file; and while old checkpoints were removed.
    out = cut_after(whole / "whole", 4, whole / "while_writing")
    shutil.copytree(whole / "whole" / "step_00000005", out / ".step_00000005.partial")
    state = out / ".step_00000005.partial" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    (out / "step_00000002").rename(out / ".step_00000002.partial")
    finish(whole, "while_writing")
    # Killed between the checkpoint of step 6, the best so far, and its links; and with a link not yet in place.
    out = cut_after(whole / "whole", 6, whole / "before_links")
    for name in ("last", "best"):
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to("step_00000003")
    (out / ".best.partial").symlink_to("step_00000006")
    store = RunDirectory(out, keep=1)
    position = load_state(store.folder(6) / "state.safetensors")[1]
    with store.held(resume=True):
        store.go_on_from(position)
        with pytest.raises(TargetExistsError, match="another process trains in"):
            train(tiny_config(whole, "before_links"), resume=True, quiet=True)
    assert store.linked("last") == 6 and store.linked("best") == position.best_step == 6
    finish(whole, "before_links")
    stores = [RunDirectory(whole / name, keep=1) for name in ("while_writing", "before_links", "whole")]
    assert len({(store.linked("last"), store.linked("best")) for store in stores}) == 1
    # Killed before the first checkpoint.
    (whole / "empty").mkdir()
    finish(whole, "empty")


@contextmanager
def files_at_most(n_bytes: int) -> Generator[None]:
    """The kernel refuses longer files (EFBIG), as a full disk refuses more (ENOSPC), which would need root to mount."""
    resource = pytest.importorskip("resource", reason="limits of files are a thing of POSIX")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("n_bytes", [30_000, 2_600])
def test_a_full_disk_keeps_the_last_good_checkpoint_and_says_so(whole: Path, n_bytes: int) -> None:
    name = f"full_{n_bytes}"
    out = cut_after(whole / "whole", 4, whole / name)
    before = {path: path.read_bytes() for path in sorted(out.rglob("*.safetensors"))}
    assert any(len(data) > n_bytes for data in before.values())
    message = r"the disk is full; the last good checkpoint is \S+step_00000004; free some space and go on with --resume"
    with files_at_most(n_bytes), pytest.raises(MachineError, match=message):
        train(tiny_config(whole, name), resume=True, quiet=True)
    assert {path: path.read_bytes() for path in sorted(out.rglob("*.safetensors"))} == before
    assert os.readlink(out / "last") == "step_00000004"
    finish(whole, name)
