"""`vortex memorize`: texts from files and pipes, and what a continuation makes of them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from tests.vortex_checkpoints import write_vortex

import vortex_engine as vx
from vortex_engine.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed model with LAVA layers; read-only."""
    folder = tmp_path_factory.mktemp("memorize")
    write_vortex(folder / "hf")
    vx.pack(folder / "hf", folder / "model.c3")
    return folder / "model.c3"


def test_a_text_is_remembered(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, out = tmp_path / "manual.txt", tmp_path / "manual.memory"
    text.write_text("press both keys to reset the machine\n" * 3)
    assert main(["memorize", str(text), "--model", str(model), "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["bytes"] == out.stat().st_size and report["slots"] > 100
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"and wait")))
    assert main(["memorize", "--model", str(model), "--out", str(out), "--memory", str(out)]) == 0
    page = capsys.readouterr()
    assert page.out == "" and f"{report['slots'] + 2 * len('and wait')} slots" in page.err

    def continued(*options: str) -> list[int]:
        arguments = ["generate", "reset the", "--model", str(model), "--max-new-tokens", "8", "--json", *options]
        assert main(arguments) == 0
        return json.loads(capsys.readouterr().out)["token_ids"]

    assert continued("--memory", str(out)) == continued("--memory", str(out))
    assert continued("--memory", str(out)) != continued()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["MISSING"], 2, "missing.txt cannot be read"),
        (["BINARY"], 2, "is not UTF-8 text: byte 0 is 0xff"),
        (["EMPTY"], 2, "the prompt is empty"),
        (["TEXT", "--memory", "BINARY"], 3, "is not a whole safetensors file"),
        (["TEXT", "--memory", "MISSING"], 3, "there is no file"),
        (["TEXT", "--model", "nano"], 2, "memory needs a model with LAVA layers"),
    ],
)
def test_errors(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    places = {name: tmp_path / f"{name.lower()}.txt" for name in ("MISSING", "BINARY", "EMPTY", "TEXT")}
    places["BINARY"].write_bytes(b"\xff\xfe")
    places["EMPTY"].write_text("")
    places["TEXT"].write_text("a text")
    given = [str(places.get(argument, argument)) for argument in arguments]
    model_option = [] if "--model" in given else ["--model", str(model)]
    assert main(["memorize", *given, *model_option, "--out", str(tmp_path / "out")]) == code
    page = capsys.readouterr()
    assert message in page.err and page.out == "" and not (tmp_path / "out").exists()
