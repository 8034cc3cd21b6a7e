"""The commands of the trainer, from corpus files to an exported directory and a picture."""

from __future__ import annotations

import gzip
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[train]'")

from vortex_engine.train import baselines, evaluate, nano
from vortex_engine.train.checkpoint import RunDirectory


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "code.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for number in range(40):
            text = "".join(f"def f{number}_{line}(x):\n    return x * {line}\n\n\n" for line in range(6))
            row = {"path": f"{number}.py", "lang": "Python", "license": "MIT", "repo": "a/b", "text": text}
            file.write(json.dumps(row) + "\n")
    return path


def arguments(corpus: Path, work_dir: Path, *more: str) -> list[str]:
    fixed = [
        "--blocks-per-step",
        "1",
        "--precision",
        "fp32",
        "--workers",
        "1",
        "--seq-len",
        "256",
        "--valid-windows",
        "2",
    ]
    return ["--corpus", str(corpus), "--valid", str(corpus), "--work-dir", str(work_dir), *fixed, *more]


def test_train_export_evaluate_and_draw(corpus: Path, tmp_path: Path) -> None:
    work_dir, exported = tmp_path / "work", tmp_path / "hf"
    assert nano.main(arguments(corpus, work_dir, "--steps", "2", "--export", str(exported))) == 0
    names = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
    assert {path.name for path in exported.iterdir()} == names
    again = tmp_path / "again"
    assert nano.main(arguments(corpus, work_dir, "--export-only", "--export", str(again))) == 0
    assert (again / "model.safetensors").read_bytes() == (exported / "model.safetensors").read_bytes()

    figures = tmp_path / "baselines.json"
    inputs = ["--train-tokens", str(work_dir / "tokens.u16"), "--tokenizer", str(work_dir / "tokenizer.json")]
    assert baselines.main([*inputs, "--valid", str(corpus), "--json", str(figures)]) == 0
    report_path = tmp_path / "report.json"
    options = ["--context", "128", "--stride", "64", "--threads", "1", "--baselines", str(figures)]
    assert evaluate.main(["--model", str(exported), "--valid", str(corpus), "--json", str(report_path), *options]) == 0
    report = json.loads(report_path.read_text(encoding="utf-8"))
    assert set(report["bits_per_byte"]) == {
        "nano",
        "gzip_9",
        "xz_9e",
        "token_5gram_kneser_ney",
        "byte_5gram_kneser_ney",
    }
    assert report["nano_by_language"]["Python"]["bits_per_byte"] == report["bits_per_byte"]["nano"]
    assert 0.0 < report["bits_per_byte"]["token_5gram_kneser_ney"] < report["bits_per_byte"]["nano"] < 12.0

    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'vortex-engine[train]'")
    from vortex_engine.train import plots

    picture = tmp_path / "loss.png"
    drawn = ["--metrics", str(work_dir / "metrics.jsonl"), "--png", str(picture), "--report", str(report_path)]
    assert plots.main(drawn) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_ctrl_c_saves_and_returns_130_and_the_run_goes_on(corpus: Path, tmp_path: Path) -> None:
    work_dir, pause_file = tmp_path / "work", tmp_path / "pause"
    store = RunDirectory(work_dir, keep=1)
    pause_file.touch()

    def interrupt_when_paused() -> None:
        # The pause saves a checkpoint first, so its presence says that the loop is waiting.
        while not (work_dir / "last").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_when_paused, daemon=True)
    thread.start()
    assert nano.main(arguments(corpus, work_dir, "--steps", "3", "--pause-file", str(pause_file))) == 130
    thread.join()
    pause_file.unlink()
    assert store.steps()[-1] < 3
    assert nano.main(arguments(corpus, work_dir, "--steps", "3", "--pause-file", str(pause_file))) == 0
    assert store.linked("last") == 3
