"""`vortex bench`: speed, the ceilings beside it, what would change them, and the plot."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from vortex_engine.bench import Bound, CodecRate, Curve, CurvePoint, Rates, Situation, Speed, explain, find_bound
from vortex_engine.bench.plot import Peer, plot_curve, read_peers
from vortex_engine.cli import main

RATES = Rates(disk_gb_s=1.0, memory_gb_s=20.0, compute_gb_s=14.0, threads=2)
CODECS = {
    "raw": CodecRate(16.0, 10.0, lossless=True),
    "exact": CodecRate(11.2, 10.0, lossless=True),
    "int4": CodecRate(4.5, 8.0, lossless=False),
}
TOTAL = 700_000_000


def bound_of(speed: float, missing: float, rates: Rates = RATES) -> tuple[Speed, Bound]:
    run = Speed(speed, TOTAL, missing)
    return run, find_bound(run, rates)


@pytest.mark.parametrize(
    ("missing", "rates", "bound", "ceiling"),
    [
        (400e6, RATES, "disk", 2.5),
        (0.0, RATES, "compute", 20.0),
        (1e6, RATES, "compute", 20.0),
        (0.0, Rates(1.0, 7.0, 14.0, 2), "memory", 10.0),
        (200e6, Rates(1.0, 2.8, 14.0, 2), "memory", 4.0),
    ],
)
def test_the_lowest_ceiling_binds(missing: float, rates: Rates, bound: str, ceiling: float) -> None:
    _, found = bound_of(1.5, missing, rates)
    assert found.bound == bound and found.ceiling_tokens_per_s == pytest.approx(ceiling)
    assert found.share_of_ceiling == pytest.approx(1.5 / ceiling)
    assert (found.disk_ceiling_tokens_per_s is None) == (missing == 0)
    assert {"disk": "disk:", "memory": "memory:", "compute": "computing:"}[bound] in found.words


def explained(speed: float, budget: int, codec: str = "exact", ram: int = 1 << 40) -> Any:
    run, bound = bound_of(speed, max(0, TOTAL - budget))
    return explain(run, RATES, bound, Situation(codec, budget, TOTAL, ram, stall_s=0.12), CODECS)


def test_a_disk_bound_run_is_told_which_budget_and_which_disk() -> None:
    found = explained(2.4, 300_000_000)
    assert found.binds == "disk" and found.share_of_ceiling == pytest.approx(0.96)
    # 20 tokens/s leave the disk 50 ms, in which it reads 50 MB.
    assert found.all_fit_budget_bytes == TOTAL and found.disk_free_budget_bytes == 650_000_000
    changes = {change.what: change for change in found.changes}
    assert changes["--ram-budget 650000000B"].tokens_per_s == pytest.approx(20.0)
    assert changes["--ram-budget 700000000B"].helps
    assert "8.00 GB/s instead of 1.00" in changes["A faster disk"].words
    assert not changes["More cores"].helps
    # 281 MB of int4 fit the budget; its kernel is slower.
    assert changes["vortex pack --codec int4"].tokens_per_s == pytest.approx(16.0)
    assert "vortex pack --codec raw" not in changes
    assert any(line.startswith("More cores would not help") for line in found.lines)


def test_a_run_in_ram_is_told_that_ram_and_disk_do_not_help() -> None:
    found = explained(19.0, TOTAL)
    changes = {change.what: change for change in found.changes}
    assert found.binds == "compute" and found.ceilings["disk"] is None
    assert not changes["More RAM"].helps and not changes["A faster disk"].helps
    # Twice the cores: 40 tokens/s by computing, 28.6 by memory.
    assert changes["More cores"].helps and changes["More cores"].tokens_per_s == pytest.approx(20e9 / TOTAL)
    assert not changes["vortex pack --codec int4"].helps


def test_a_machine_without_the_ram_says_so() -> None:
    words = " ".join(explained(2.4, 300_000_000, ram=512_000_000).lines)
    assert "this machine can give 512 MB" in words
    assert "can give" not in " ".join(explained(2.4, 300_000_000).lines)


def test_an_unexplained_run_is_called_that() -> None:
    assert "other programs" in " ".join(explained(0.5, 300_000_000).lines)
    assert "other programs" not in " ".join(explained(2.4, 300_000_000).lines)


def test_a_run_says_how_long_it_waited_for_reads() -> None:
    words = " ".join(explained(2.0, 300_000_000).lines)
    assert "A token took 500.0 ms; its 2 threads together waited 120.0 ms for reads." in words


def test_a_run_above_its_ceiling_is_not_praised() -> None:
    assert "slower when its rates were measured" in " ".join(explained(3.0, 300_000_000).lines)
    assert "slower when its rates were measured" not in " ".join(explained(2.4, 300_000_000).lines)


def test_a_codec_with_more_bits_is_named_only_where_it_helps() -> None:
    slow = {**CODECS, "int4": CodecRate(4.5, 1.0, lossless=False)}
    situation = Situation("int4", 4 * TOTAL, TOTAL, 1 << 40, stall_s=0.0)
    named: list[set[str]] = []
    # Of memory, 20 GB/s allow 1742 MB of exact tiles 11 tokens/s, 100 GB/s 57; computing with int4 reaches 20.
    for rates in (RATES, Rates(1.0, 100.0, 14.0, 2)):
        run, bound = bound_of(9.0, 0.0, rates)
        named.append({change.what for change in explain(run, rates, bound, situation, slow).changes})
    assert "vortex pack --codec exact" not in named[0] and "vortex pack --codec exact" in named[1]
    assert "vortex pack --codec int4" not in named[0] | named[1]


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_bench_measures_explains_and_draws(
    tiny_c3_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'vortex-engine[test]'")
    arguments = ["bench", "--model", str(tiny_c3_dir), "--max-new", "6", "--prompt-tokens", "4", "--repeats", "1"]
    out, picture = tmp_path / "bench.json", tmp_path / "curve.png"
    document = run_json(capsys, *arguments, "--ram-budget", "300000B", "--json-out", str(out), "--plot", str(picture))
    assert json.loads(out.read_text()) == document
    assert document["schema"] == 1 and document["vram_peak_mb"] is None and document["active_adapters"] == []
    assert document["tokens_per_sec"] > 0 and document["prefill_tokens_per_sec"] > 0
    assert document["bound"]["bound"] in ("disk", "memory", "compute") and document["bound"]["words"]
    assert document["explanation"]["binds"] == document["bound"]["bound"]
    assert {change["what"] for change in document["explanation"]["changes"]} >= {"A faster disk", "More cores"}
    assert document["hit_rate"] <= document["belady_hit_rate"] < 1
    assert document["machine"]["n_cores"] >= 1
    points = document["curve"]["points"]
    assert [point["budget_bytes"] for point in points] == sorted(point["budget_bytes"] for point in points)
    assert points[-1]["bytes_per_token"] == 0 < points[0]["bytes_per_token"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(points) + len(document["curve"]["skipped"]) == 8


def test_bench_measures_with_the_activations_asked_for(
    tiny_hf_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "int8.c3"
    assert main(["pack", str(tiny_hf_dir), str(model), "--codec", "int8"]) == 0
    arguments = ["bench", "--model", str(model), "--max-new", "4", "--prompt-tokens", "4", "--repeats", "1"]
    document = run_json(capsys, *arguments, "--activations", "int8")
    assert document["stats"]["activations"] == "int8"
    named = {change["what"] for change in document["explanation"]["changes"]}
    assert "vortex pack --codec int8 --activations int8" not in named
    assert "vortex pack --codec int4 --activations int8" in named


def test_bench_explains_in_plain_text(tiny_c3_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "--model", str(tiny_c3_dir), "--max-new", "4", "--prompt-tokens", "4", "--repeats", "1"]
    assert main([*arguments, "--explain"]) == 0
    page = capsys.readouterr().out
    assert "bound by" in page and "What binds is" in page and "More cores" in page


def test_peers_are_the_other_engines_of_a_result(tmp_path: Path) -> None:
    ours = {"engine": "vortex", "limit_bytes": 6, "tokens_per_s": {"median": 9.0}}
    theirs = {"engine": "llama.cpp", "limit_bytes": 600_000_000, "tokens_per_s": {"median": 1.5}}
    path = tmp_path / "c3_limited.json"
    path.write_text(json.dumps({"shape": "big", "entries": [ours, theirs]}))
    assert read_peers(path) == [Peer("llama.cpp, big", 600_000_000, 1.5)]
    path.write_text(json.dumps({"shape": "big", "entries": [{"engine": "llama.cpp"}]}))
    with pytest.raises(ValueError, match=r"c3_limited\.json is no result"):
        read_peers(path)


def test_the_picture_draws_every_engine(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'vortex-engine[test]'")
    curve = Curve("m.c3", TOTAL, RATES, (CurvePoint(300_000_000, 2.4, 4e8, 2.5), CurvePoint(TOTAL, 19, 0, 20)), ())
    assert curve.ceiling(300_000_000) == pytest.approx(2.5) and curve.ceiling(TOTAL) == pytest.approx(20.0)
    peers = [Peer("one engine", 600_000_000, 1.5), Peer("another", 943_718_400, 0.5)]
    plot_curve(curve, tmp_path / "curve.svg", peers=peers)
    picture = (tmp_path / "curve.svg").read_text()
    for words in ("one engine", "another", "bound by the disk", "bound by computing", "m.c3"):
        assert words in picture


def test_a_plot_without_matplotlib_names_the_extra(
    tiny_c3_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    picture = tmp_path / "curve.png"
    assert main(["bench", "--model", str(tiny_c3_dir), "--plot", str(picture)]) == 2
    assert "pip install 'vortex-engine[bench]'" in capsys.readouterr().err and not picture.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--plot", "curve.xyz"], ".png .svg .pdf"),
        (["--plot", "nowhere/curve.png"], "nowhere is no folder"),
        (["--json-out", "nowhere/out.json"], "nowhere is no folder"),
        (["--max-new", "1"], "at least 2"),
        (["--repeats", "0"], "at least 1"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(
    arguments: list[str],
    words: str,
    tiny_c3_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "--model", str(tiny_c3_dir), *arguments]) == 2
    page = capsys.readouterr()
    assert words in " ".join(page.err.split()) and not page.out


def test_peers_without_a_plot_are_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--peers", str(tmp_path / "c3_limited.json")]) == 2
    assert "--plot" in capsys.readouterr().err
