"""Two processes on one machine, as torchrun starts them: the same function as one process, and resumable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[train]'")

import torch
from tests.train.tiny_runs import (
    MODELS,
    STEPS,
    assert_same_bits,
    cut_after,
    state_of,
    tiny_config,
    tiny_settings,
    write_text,
)

from vortex_engine.errors import ModelConfigError
from vortex_engine.train.config import TrainConfig
from vortex_engine.train.inputs import prepare_data
from vortex_engine.train.launch import run, train
from vortex_engine.train.parallel import World
from vortex_engine.train.progress import Reporter, read_records

# One pair of processes makes all runs: torch takes longer to import than to train these.
WORKER = """
import json, sys
from pathlib import Path
from tiny_runs import MODELS, cut_after, tiny_config
from vortex_engine.train.launch import train
from vortex_engine.train.parallel import joined_world
folder = Path(sys.argv[1])
with joined_world("cpu") as world:
    for model in MODELS:
        for kind in ("ddp", "fsdp"):
            whole, cut = (tiny_config(folder, f"{model}_{kind}{end}", model, parallel=kind) for end in ("", "_cut"))
            train(whole, quiet=True, world=world)
            if world.leads:
                cut_after(whole.out, 4, cut.out)
            world.wait()
            report = train(cut, resume=True, quiet=True, world=world)
(folder / f"rank_{report.rank}.json").write_text(json.dumps(report.to_dict()))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of each model: `one` (one process), `ddp` and `fsdp` (two), these two cut and resumed as well; read-only."""
    folder = write_text(tmp_path_factory.mktemp("runs"))
    (folder / "worker.py").write_text(WORKER)
    here = str(Path(__file__).resolve().parent)
    # Loopback alone: no name of this machine must resolve, and the port is one that is free.
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": here}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1", str(folder / "worker.py"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    for model in MODELS:
        train(tiny_config(folder, f"{model}_one", model), quiet=True)
    return folder


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_as_one_does(folder: Path, model: str, kind: str) -> None:
    alone, together = (read_records(folder / f"{model}_{name}" / "metrics.jsonl") for name in ("one", kind))
    assert len(alone) == len(together) == STEPS + 3
    for left, right in zip(alone, together, strict=True):
        for key in left.keys() - {"elapsed_s", "tokens_per_s", "kind"}:
            assert right[key] == pytest.approx(left[key], rel=2e-4), (left["step"], key)
    first, second = state_of(folder / f"{model}_one"), state_of(folder / f"{model}_{kind}")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_allclose(second[name].numpy(), tensor.numpy(), rtol=2e-2, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_resume_with_the_same_bits(folder: Path, model: str, kind: str) -> None:
    assert_same_bits(state_of(folder / f"{model}_{kind}_cut"), state_of(folder / f"{model}_{kind}"))


@pytest.mark.parametrize("model", MODELS)
def test_one_process_goes_on_where_two_shards_stopped(folder: Path, model: str) -> None:
    whole, alone = folder / f"{model}_fsdp", folder / f"{model}_fsdp_alone"
    cut_after(whole, 4, alone)
    report = train(tiny_config(folder, alone.name, model), resume=True, quiet=True)
    assert report.step == STEPS
    for name, tensor in state_of(whole).items():
        np.testing.assert_allclose(state_of(alone)[name].numpy(), tensor.numpy(), rtol=2e-2, atol=2e-4)


def test_each_process_reports_and_the_first_one_writes(folder: Path) -> None:
    reports = [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in (0, 1)]
    assert [report["rank"] for report in reports] == [0, 1]
    assert all(report["n_processes"] == 2 and report["step"] == STEPS for report in reports)
    assert reports[0]["best_bits_per_byte"] == reports[1]["best_bits_per_byte"]


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        ({"workers": 2}, "loop.workers"),
        ({"pause_file": "p"}, "loop.pause_file"),
        ({"batch_tokens": 144}, "share 9 sequences"),
        ({"parallel": "fsdp"}, "muon"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(
    loop: dict[str, object], message: str, folder: Path, tmp_path: Path
) -> None:
    settings = tiny_settings(folder, str(tmp_path / "refused"), **{"micro_batch_tokens": 16, **loop})
    settings["optim"] = {"kind": "muon"}
    config = TrainConfig.model_validate(settings)
    alone = World(device=torch.device("cpu"))
    data = prepare_data(config, alone, lambda text: None)
    with Reporter(shown=False) as reporter, pytest.raises(ModelConfigError, match=message):
        run(config, data, World(size=2, device=torch.device("cpu")), reporter)
