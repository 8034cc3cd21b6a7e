"""`vortex pack` with lossy codecs: errors in tables and JSON, and the exit code of each refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vortex_engine.cli import main


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("def f(n):\n    return n + 1\n" * 12)
    return path


def test_mixed_shows_matrices_and_divergence(
    tiny_hf_dir: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--codec", "mixed", "--bits-per-weight", "10", "--calibration", str(text), "--ram-budget", "1MiB"]
    assert main(["pack", str(tiny_hf_dir), str(tmp_path / "a.c3"), *options]) == 0
    page = capsys.readouterr().out
    assert "relative RMS error" in page and "model.layers.1.mlp.down_proj.weight" in page
    assert "KL divergence, nats per token" in page and "same most likely next token" in page
    assert main(["pack", str(tiny_hf_dir), str(tmp_path / "b.c3"), *options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["codec"] == "mixed" and 0 < report["relative_rms"] < 0.2
    assert report["divergence"]["nats_per_token"] > 0 and 0 < report["divergence"]["top1_agreement"] <= 1
    assert len({tensor["codec"] for tensor in report["tensors"].values()}) > 1
    assert main(["inspect", str(tmp_path / "b.c3"), "--verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bits_per_weight"] <= 10


def test_rounding_is_reported_without_a_text_too(
    tiny_hf_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", str(tiny_hf_dir), str(tmp_path / "int4.c3"), "--codec", "int4"]) == 0
    page = capsys.readouterr().out
    assert "relative RMS error" in page and "KL divergence" not in page
    assert main(["pack", str(tiny_hf_dir), str(tmp_path / "exact.c3")]) == 0
    assert "relative RMS error" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "options", "message"),
    [
        (2, ["--codec", "mixed", "--bits-per-weight", "10"], "needs a calibration text"),
        (2, ["--codec", "mixed", "--calibration", "TEXT"], "needs bits_per_weight"),
        (2, ["--codec", "int4", "--bits-per-weight", "10"], "of codec 'mixed'"),
        (4, ["--codec", "mixed", "--calibration", "TEXT", "--bits-per-weight", "2"], "must be at least"),
        (4, ["--codec", "int8", "--calibration", "TEXT", "--ram-budget", "9KiB"], "minimum"),
        (3, ["--codec", "int8", "--calibration", "no-such-file"], "cannot be opened"),
    ],
)
def test_refusals(
    code: int,
    options: list[str],
    message: str,
    tiny_hf_dir: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(text) if option == "TEXT" else option for option in options]
    assert main(["pack", str(tiny_hf_dir), str(tmp_path / "out.c3"), *given, "--json"]) == code
    page = capsys.readouterr()
    assert json.loads(page.out)["error"]["exit_code"] == code
    assert message in page.err and page.err.count("\n") == 1
    assert not (tmp_path / "out.c3").exists()
