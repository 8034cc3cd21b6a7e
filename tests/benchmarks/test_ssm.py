"""The benchmark of the scan: its peers compute what ours computes, wrong ones are not timed, and one tiny run of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from benchmarks.c3.report import MissingPeerError
from benchmarks.ssm import scalar_scan
from benchmarks.ssm.__main__ import FIGURES, main
from benchmarks.ssm.problem import error_share, random_layer, scan, timed
from benchmarks.ssm.torch_scans import chunked, head_loop, parallel_scan, step_by_step

from vortex_engine import ops

LAYER = random_layer(channels=40, n_state=16, length=33)
HEADS = random_layer(channels=128, n_state=16, length=65, heads=2, gated=False)


@pytest.fixture(scope="module")
def reference() -> ops.OpContext:
    return ops.make_context(threads=1, backend="reference")


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    """The benchmark sets torch's threads; the tests after it get theirs back."""
    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    yield
    if torch is not None:
        torch.set_num_threads(before)


@pytest.mark.parametrize("make", [step_by_step, parallel_scan])
def test_torch_peers_compute_the_scan(make, reference) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[peers]'")
    if make is parallel_scan:
        pytest.importorskip("mambapy", reason="mambapy is not installed: pip install 'vortex-engine[peers]'")
    assert error_share(make(LAYER, 2)(), scan(reference, LAYER)) < 0.1


@pytest.mark.parametrize("make", [chunked, head_loop])
def test_torch_peers_compute_the_scan_with_heads(make, reference) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[peers]'")
    if make is chunked:
        pytest.importorskip(
            "transformers.models.mamba2", reason="transformers is not installed: pip install 'vortex-engine[peers]'"
        )
    assert error_share(make(HEADS, 2)(), scan(reference, HEADS)) < 0.1


@pytest.mark.parametrize("n_threads", [1, 3])
def test_the_loop_in_c_computes_the_scan(n_threads: int, reference) -> None:
    run = scalar_scan.scalar_scan(LAYER, n_threads, ("-O3",))
    assert error_share(run(), scan(reference, LAYER)) < 0.1


def test_without_a_compiler_the_loop_is_a_missing_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(MissingPeerError, match="no C compiler"):
        scalar_scan.scalar_scan(LAYER, 1, ())


def test_a_refused_flag_is_a_missing_peer() -> None:
    with pytest.raises(MissingPeerError, match=r"scalar C: .*failed"):
        scalar_scan.scalar_scan(LAYER, 1, ("-no-such-flag",))


def test_rows_of_time_are_the_same_values_the_other_way_round() -> None:
    turned = LAYER.rows_of_time()
    for name, value in LAYER.arguments().items():
        other = turned.arguments()[name]
        np.testing.assert_array_equal(other, value)
        assert value.ndim != 3 or other.strides != value.strides
    assert HEADS.rows_of_time().z is None


def test_the_error_is_the_largest_over_what_is_allowed() -> None:
    wanted = np.array([0.0, 10.0], np.float32)
    assert error_share(wanted, wanted) == 0.0
    assert error_share(np.array([1e-3, 10.0], np.float32), wanted) == pytest.approx(0.5)
    assert error_share(np.array([0.0, 10.016], np.float32), wanted) == pytest.approx(2.0, rel=1e-3)


def test_a_wrong_result_is_not_timed() -> None:
    wanted = np.ones(4, np.float32)
    with pytest.raises(SystemExit, match=r"nothing is timed: \{'wrong': "):
        timed({"right": lambda: wanted, "wrong": lambda: wanted + 1}, wanted, repeats=1, burst=2)
    with pytest.raises(SystemExit, match="nothing is timed"):
        timed({"nan": lambda: wanted * np.float32(np.nan)}, wanted, repeats=1, burst=2)


def test_a_tiny_run_writes_results_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(sys, "argv", ["benchmarks.ssm", "--quick", "--work", str(tmp_path)])
    main()
    assert "skipped: scalar C: no C compiler" in capsys.readouterr().out
    results = {name: json.loads((tmp_path / "results" / f"ssm_{name}.json").read_text()) for name in FIGURES}
    assert all(result["machine"]["n_cores"] >= 1 for result in results.values())
    scans = {name: results[name] for name in ("prefill", "step", "forms")}
    for result in scans.values():
        assert all(entry["seconds"]["median"] > 0 and entry["error"] < 0.1 for entry in result["entries"])
    assert {entry["contender"] for entry in results["prefill"]["entries"]} >= {"vortex", "vortex, rows of time"}
    assert {(entry["contender"], entry["batch"]) for entry in results["step"]["entries"]} >= {
        (name, batch) for name in ("vortex", "vortex, in blocks") for batch in (1, 8)
    }
    line = results["prefill"]["roofline"]["vortex"]
    assert line["gexps_s_bound"] > 0 and line["share_of_exps"] > 0
    errors = [claim for result in scans.values() for claim in result["claims"] if claim["sign"] == "<="]
    assert len(errors) == 4 and all(claim["met"] for claim in errors)
    decoders = {entry["contender"]: entry for entry in results["decode"]["entries"]}
    assert decoders["vortex, exact"]["error"] == 0.0 and decoders["vortex, int4"]["error"] > 0.0
    assert [entry["what"] for entry in results["verify"]["entries"]] == ["sweeps", "rollback", "sweeps"]
