"""`vortex grams`: counts a corpus with a real tokenizer and shows what follows a text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vortex_engine.cli import main
from vortex_engine.grams import GramTable
from vortex_engine.tok import load_tokenizer


@pytest.mark.parametrize("suffix", [".json", ".scxq2"])
def test_build_then_show(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.py").write_text("for i in range(10):\n    print(i)\n" * 20)
    table = tmp_path / f"t{suffix}"
    assert main(["grams", "build", "--corpus", str(tmp_path / "corpus"), "--out", str(table), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["n_documents"] == 1 and len(report["n_grams"]) == 3
    assert main(["grams", "show", str(table), "--context", "for i in", "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["n_tokens"] == report["n_tokens"] and seen["n_grams"] == report["n_grams"]
    assert seen["next"] == [{"id": seen["next"][0]["id"], "text": " range", "probability": 1.0}]
    assert main(["grams", "show", str(table)]) == 0
    page = capsys.readouterr()
    assert "distinct" not in page.out and "1 documents" in page.out and page.err == ""


def test_a_table_of_another_tokenizer(tiny_c3_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.txt").write_text("def f(x)")
    build = ["grams", "build", "--corpus", str(tmp_path / "c.txt"), "--out", str(tmp_path / "t.json")]
    assert main([*build, "--tokenizer", str(tiny_c3_dir), "--n", "2"]) == 0
    page = capsys.readouterr()
    assert "distinct n-grams" in page.out and "counted" in page.err
    assert GramTable.load(tmp_path / "t.json").facts.vocab_size == 323
    ids = load_tokenizer(tiny_c3_dir).encode_texts(["def f(x)"])[0]
    assert GramTable.load(tmp_path / "t.json").counts(ids[:2]) == 1
    assert main(["grams", "show", str(tmp_path / "t.json")]) == 3
    assert "another tokenizer" in capsys.readouterr().err
    assert main(["grams", "show", str(tmp_path / "t.json"), "--tokenizer", str(tiny_c3_dir)]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["build", "--corpus", "CORPUS"], 2, "--out"),
        (["build", "--corpus", "missing", "--out", "t.json"], 3, "no corpus"),
        (["build", "--corpus", "CORPUS", "--out", "t.zip"], 2, "ends in"),
        (["build", "--corpus", "CORPUS", "--out", "t.json", "--memory", "1B"], 4, "65536"),
        (["build", "--corpus", "CORPUS", "--out", "t.json", "--n", "0"], 2, "n must"),
        (["build", "--corpus", "CORPUS", "--out", "CORPUS/a.json"], 2, "exists"),
        (["show", "missing.json"], 3, "cannot be opened"),
    ],
)
def test_errors(
    arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert main(["grams", *(argument.replace("CORPUS", str(tmp_path)) for argument in arguments)]) == code
    error = capsys.readouterr().err
    assert error.startswith("vortex: ") and error.count("\n") == 1 and message in error


def test_interrupt_is_130(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vortex_engine.grams.build_grams", interrupted)
    assert main(["grams", "build", "--corpus", str(tmp_path), "--out", str(tmp_path / "t.json")]) == 130
    assert "nothing is kept" in capsys.readouterr().err
