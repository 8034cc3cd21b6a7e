"""What the commands print: data on stdout, one JSON document with --json."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import vortex_engine as vx
from vortex_engine.cli import main


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vortex {version('vortex-engine')}\n"
    assert main([]) == 0
    page = capsys.readouterr().out
    for command in ("pack", "inspect", "generate", "demo", "bench", "doctor"):
        assert command in page
        assert main([command, "--help"]) == 0
        assert "--json" in capsys.readouterr().out


def test_module_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vortex_engine", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"vortex {version('vortex-engine')}\n"


@pytest.mark.parametrize("codec", ["exact", "raw"])
def test_pack_then_inspect(codec: str, tiny_hf_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / f"{codec}.c3"
    report = run_json(capsys, "pack", str(tiny_hf_dir), str(target), "--codec", codec, "--threads", "1")
    assert report["codec"] == codec and report["n_tiles"] > 0
    seen = run_json(capsys, "inspect", str(target), "--verify")
    assert seen["codec"] == codec and seen["verified"] and seen["reseal"] is None
    assert seen["n_tiles"] == report["n_tiles"]
    assert main(["inspect", str(target)]) == 0
    page = capsys.readouterr()
    assert "llama" in page.out and page.err == ""


def test_pack_says_its_data_on_stdout_and_its_story_on_stderr(
    tiny_hf_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", str(tiny_hf_dir), str(tmp_path / "out.c3")]) == 0
    page = capsys.readouterr()
    assert "bits per weight" in page.out and "packed" in page.err


def test_pack_dense(tiny_hf_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run_json(capsys, "pack", str(tiny_hf_dir), str(tmp_path / "dense.c3"), "--dense")
    assert report["codec"] == "dense" and report["escape_share"] == 0
    assert run_json(capsys, "inspect", str(tmp_path / "dense.c3"), "--verify")["tiles_by_codec"]["dense"] > 0
    assert main(["pack", str(tiny_hf_dir), str(tmp_path / "no.c3"), "--dense", "--codec", "raw"]) == 2


def test_reseal_after_an_edit(tiny_hf_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "model.c3"
    vx.pack(str(tiny_hf_dir), str(target))
    (target / "generation_config.json").write_text(json.dumps({"eos_token_id": 5}))
    assert main(["inspect", str(target)]) == 3
    seen = run_json(capsys, "inspect", str(target), "--reseal")
    assert seen["reseal"]["changed"] == ["generation_config.json"]
    assert main(["inspect", str(target)]) == 0


def test_generate_streams_the_text_of_the_api(tiny_c3_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "def f", "--model", str(tiny_c3_dir), "--max-new-tokens", "24"]
    assert main(arguments) == 0
    page = capsys.readouterr()
    with vx.load(str(tiny_c3_dir)) as model:
        expected = model.generate("def f", max_new_tokens=24)
    assert page.out == expected.text + "\n"
    assert page.err.count("\n") == 1 and "tokens/s" in page.err and "hit rate" in page.err
    document = run_json(capsys, *arguments, "--ram-budget", "300000B", "--threads", "1")
    assert document["text"] == expected.text and document["token_ids"] == list(expected.token_ids)
    assert document["finish_reason"] == expected.finish_reason
    assert document["stats"]["peak_ram_bytes"] <= 300000


def test_sampling_options_reach_the_sampler(tiny_c3_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--temperature",
        "0.9",
        "--top-k",
        "40",
        "--top-p",
        "0.95",
        "--min-p",
        "0.01",
        "--repetition-penalty",
        "1.1",
    ]
    arguments = ["generate", "a", "--model", str(tiny_c3_dir), "--max-new-tokens", "12", *options, "--seed"]
    with vx.load(str(tiny_c3_dir)) as model:
        for seed in (1, 2):
            expected = model.generate(
                "a",
                max_new_tokens=12,
                temperature=0.9,
                top_k=40,
                top_p=0.95,
                min_p=0.01,
                repetition_penalty=1.1,
                seed=seed,
            )
            assert run_json(capsys, *arguments, str(seed))["token_ids"] == list(expected.token_ids)


def test_stop_strings_end_the_text(tiny_c3_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "b", "--model", str(tiny_c3_dir), "--max-new-tokens", "16"]
    whole = run_json(capsys, *arguments)["text"]
    stop = next(symbol for symbol in whole[1:] if symbol not in whole[:1])
    stopped = run_json(capsys, *arguments, "--stop", stop, "--stop", "never seen")
    assert stopped["finish_reason"] == "stop" and stopped["text"] == whole[: whole.index(stop)]


class _Pipe(io.TextIOWrapper):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")


def test_prompt_from_a_pipe(
    tiny_c3_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["generate", "--model", str(tiny_c3_dir), "--max-new-tokens", "8"]
    monkeypatch.setattr("sys.stdin", _Pipe("été\n".encode()))
    piped = run_json(capsys, *arguments)
    assert piped["text"] == run_json(capsys, "generate", "été\n", *arguments[1:])["text"]
    monkeypatch.setattr("sys.stdin", _Pipe(b"ab\xff"))
    assert main(arguments) == 2
    assert "byte 2 is 0xff" in capsys.readouterr().err


def test_doctor_finds_this_machine_fit(tiny_c3_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run_json(capsys, "doctor", "--model", str(tiny_c3_dir))
    assert report["ok"]
    assert {check["name"] for check in report["checks"]} >= {
        "python",
        "packages",
        "processor",
        "ops",
        "memory",
        "model",
    }
    assert {"op", "backend", "reason"} == set(report["ops"][0])
    assert main(["doctor", "--model", str(tiny_c3_dir)]) == 0
    assert "paged_linear" in capsys.readouterr().out


def test_deep_doctor_compares_bits(tiny_c3_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run_json(capsys, "doctor", "--deep", "--model", str(tiny_c3_dir))
    names = [check["name"] for check in report["checks"]]
    assert names[-3:] == ["tiles", "codec", "same bits"] and report["ok"]


def test_doctor_fails_with_a_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", str(tmp_path / "missing"), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    failed = [check for check in report["checks"] if check["status"] == "failed"]
    assert not report["ok"] and [check["name"] for check in failed] == ["model"] and failed[0]["fix"]


def test_doctor_does_not_import_torch(tiny_c3_dir: Path) -> None:
    code = (
        "import sys; from vortex_engine.cli import main; "
        f"main(['doctor', '--model', {str(tiny_c3_dir)!r}, '--json']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
