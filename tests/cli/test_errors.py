"""Every documented exit code, one line per error, JSON errors, interrupts and closed pipes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vortex_engine.cli import main
from vortex_engine.cli.edge import exit_code
from vortex_engine.errors import (
    BackendUnavailableError,
    BudgetError,
    CorruptTileError,
    MachineError,
    ModelConfigError,
    PromptError,
    TargetExistsError,
    TileFileError,
    TileVersionError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PromptError("x"), 2),
        (TargetExistsError("x"), 2),
        (BackendUnavailableError("x"), 2),
        (ValueError("x"), 2),
        (TileFileError("x"), 3),
        (CorruptTileError("x"), 3),
        (TileVersionError("x"), 3),
        (ModelConfigError("x"), 3),
        (FileNotFoundError("x"), 3),
        (PermissionError("x"), 3),
        (BudgetError("x"), 4),
        (MachineError("x"), 5),
        (OSError("x"), 5),
        (MemoryError(), 5),
        (TypeError("x"), None),
        (AssertionError("x"), None),
    ],
)
def test_exit_code_of_every_error(error: Exception, code: int | None) -> None:
    assert exit_code(error) == code


def expect(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """Run with and without --json and return the one line on stderr."""
    capsys.readouterr()
    assert main(list(arguments)) == code
    plain = capsys.readouterr()
    assert plain.out == ""
    assert plain.err.startswith("vortex: ") and plain.err.count("\n") == 1
    assert main([*arguments, "--json"]) == code
    error = json.loads(capsys.readouterr().out)["error"]
    assert set(error) == {"type", "message", "exit_code"} and error["exit_code"] == code
    return plain.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["generate", "x", "--no-such-flag"],
        ["generate", "x", "--max-new-tokens", "many"],
        ["pack", "a"],
        ["pack", "a", "b", "--codec", "zip"],
    ],
)
def test_bad_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "--help" in expect(capsys, 2, *arguments)


def test_bad_values_are_2(tiny_c3_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", str(tiny_c3_dir)]
    assert "prompt" in expect(capsys, 2, "generate", "", *model)
    assert "context" in expect(capsys, 2, "generate", "word " * 400, *model)
    assert "max_new_tokens" in expect(capsys, 2, "generate", "x", *model, "--max-new-tokens", "0")
    assert "speculate" in expect(capsys, 2, "generate", "x", *model, "--speculate", "on")
    assert "temperature" in expect(capsys, 2, "generate", "x", *model, "--temperature", "-1")
    assert "ram_budget" in expect(capsys, 2, "generate", "x", *model, "--ram-budget", "lots")
    assert "policy" in expect(capsys, 2, "bench", *model, "--policy", "random")


def test_existing_target_is_2_and_stays(tiny_hf_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").write_text("precious")
    assert "there" in expect(capsys, 2, "pack", str(tiny_hf_dir), str(tmp_path / "there"))
    assert (tmp_path / "there").read_text() == "precious"


def test_missing_input_is_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "missing")
    for arguments in (
        ["pack", missing, str(tmp_path / "out")],
        ["inspect", missing],
        ["inspect", missing, "--reseal"],
        ["generate", "x", "--model", missing],
        ["bench", "--model", missing],
    ):
        assert "missing" in expect(capsys, 3, *arguments)


def test_demo_prints_nothing_before_the_model_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "missing" in expect(capsys, 3, "demo", "--model", str(tmp_path / "missing"))


def test_damaged_model_is_3(tiny_c3_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "damaged.c3"
    shutil.copytree(tiny_c3_dir, model)
    (model / "config.json").write_text((model / "config.json").read_text().replace("silu", "gelu"))
    assert "config.json" in expect(capsys, 3, "inspect", str(model))
    assert "config.json" in expect(capsys, 3, "generate", "x", "--model", str(model))
    shard = next(model.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert shard.name in expect(capsys, 3, "inspect", str(model), "--reseal")


def test_small_budget_is_4_and_names_the_minimum(tiny_c3_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = expect(capsys, 4, "generate", "x", "--model", str(tiny_c3_dir), "--ram-budget", "1B")
    assert any(word.strip(";,.").isdigit() and int(word.strip(";,.")) > 1 for word in line.split())


def test_forced_level_that_is_not_here_is_2(
    tiny_c3_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VORTEX_SIMD", "mmx")
    assert "mmx" in expect(capsys, 2, "generate", "x", "--model", str(tiny_c3_dir))


def test_debug_variable_shows_the_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VORTEX_DEBUG", "1")
    assert main(["inspect", str(tmp_path / "missing")]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise TypeError("ours")

    monkeypatch.setattr("vortex_engine.c3.inspect.inspect_directory", broken)
    with pytest.raises(TypeError, match="ours"):
        main(["inspect", "x"])


@pytest.mark.parametrize(
    ("target", "arguments", "kept"),
    [
        ("vortex_engine.pack", ["pack", "SRC", "DST"], "same command to resume"),
        ("vortex_engine.c3.inspect.inspect_directory", ["inspect", "DIR"], "nothing was changed"),
        ("vortex_engine.decode.model.Model.stream", ["generate", "x", "--model", "TINY"], "complete up to here"),
        ("vortex_engine.demo.run_demo", ["demo"], "nothing is kept"),
        ("vortex_engine.bench.run_bench", ["bench"], "nothing is kept"),
        ("vortex_engine.doctor.run_doctor", ["doctor"], "nothing was changed"),
    ],
)
def test_interrupt_is_130_and_says_what_is_kept(
    target: str,
    arguments: list[str],
    kept: str,
    tiny_c3_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(target, interrupted)
    arguments = [str(tiny_c3_dir) if argument == "TINY" else argument for argument in arguments]
    assert main(arguments) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("vortex: interrupted; ") and kept in last


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "vortex_engine", *arguments]


def test_ctrl_c_stops_a_real_generation(tiny_c3_dir: Path) -> None:
    command = program(
        "generate", "x", "--model", str(tiny_c3_dir), "--max-new-tokens", "250", "--ram-budget", "200000B"
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.read(1)
        running.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 20
        while running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        # A generation that was faster than the signal is no failure of the program.
        assert running.returncode in (130, 0)
        assert "Traceback" not in running.stderr.read()


def test_a_reader_that_leaves_ends_the_program_quietly(tiny_c3_dir: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            program("generate", "x", "--model", str(tiny_c3_dir), "--max-new-tokens", "50"),
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 0
    assert "BrokenPipe" not in done.stderr and "Traceback" not in done.stderr
