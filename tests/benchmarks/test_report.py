"""README's numbers: what the generator makes of results, and that it refuses a page without its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks import report
from benchmarks.bad.report import budget_table
from benchmarks.c3.report import Figure
from benchmarks.ssm.report import scan_table

MACHINE: dict[str, Any] = {
    "cpu": "One",
    "cpu_flags": ["avx2", "fma"],
    "n_cores": 2,
    "ram_bytes": 8 << 30,
    "read_bandwidth_2_gb_s": 21.04,
    "disk_read_gb_s": 0.9,
    "date": "2026-01-02T03:04:05+00:00",
}
LIMITED: dict[str, Any] = {
    "bf16_bytes": 1_000_000_000,
    "n_prompts": 4,
    "new_tokens": 128,
    "threads": 2,
    "different_tokens": {"1": 0, "0.4": 3},
    "entries": [
        {"engine": engine, "share": share, "tokens_per_s": {"median": speed}}
        for engine, share, speed in (
            ("plain", 1.0, 12.5),
            ("BAD", 1.0, 14.25),
            ("plain", 0.4, 2.0),
            ("llama.cpp", 0.4, 1.0),
        )
    ],
}

SCAN: dict[str, Any] = {
    "threads": 2,
    "length": 2048,
    "channels": 1536,
    "n_state": 16,
    "entries": [
        {"contender": contender, "ms": ms, "times_ours": ms / 8, "error": 1e-5}
        for contender, ms in (("vortex", 8.0), ("torch", 900.0))
    ],
    "roofline": {
        "vortex": {
            "gexps_s": 5.0,
            "gexps_s_bound": 8.0,
            "share_of_exps": 0.625,
            "gb_s": 4.0,
            "gb_s_bound": 20.0,
            "share_of_bandwidth": 0.2,
        }
    },
}


def written(folder: Path, name: str, figure: Figure, **machine: Any) -> None:
    figure.write(name, {**MACHINE, **machine}, folder)


def test_the_section_says_target_measured_peer_verdict_and_machine(tmp_path: Path) -> None:
    resident, limited = Figure(), Figure()
    resident.claim("fast", 1.4, ">=", 1.35, peer="llama.cpp BF16", detail="14 over 10 tokens/s")
    resident.claim("small", 1.03, "<=", 1.02, peer="Belady's policy")
    limited.skip("AirLLM: it is not here")
    written(tmp_path, "resident", resident)
    written(tmp_path, "limited", limited, disk_read_gb_s=1.1)
    text = report.section(report.read_results(tmp_path))
    link = "benchmarks/results/c3_resident.json"
    assert f"| fast | llama.cpp BF16 | ≥ 1.35 | [1.400]({link}): 14 over 10 tokens/s | yes |" in text
    assert f"| small | Belady's policy | ≤ 1.02 | [1.030]({link}) | **no** |" in text
    assert "- limited: AirLLM: it is not here" in text
    assert "Measured on 2 cores of One (avx2), 8 GiB of RAM read at 21.04 GB/s" in text
    assert "a disk of 0.90 to 1.10 GB/s, 2026-01-02." in text
    assert "Without a committed result: gemv, " in text and "resident" not in text.split("Without")[1].split("!")[0]


def test_the_table_of_budgets_says_whether_the_output_is_the_same() -> None:
    header, rule, *rows = budget_table(LIMITED)[2:]
    assert header.startswith("| budget | plain | BAD | llama.cpp, mmap | ") and header.endswith(" output identical |")
    assert rule.count("|") == header.count("|")
    assert rows == [
        "| 100 %, 1000 MB | 12.50 | 14.25 | - | - | yes |",
        "| 40 %, 400 MB | 2.00 | - | 1.00 | - | **no**, 3 tokens |",
    ]


def test_the_table_of_scans_says_time_error_and_what_the_machine_allows() -> None:
    lines = scan_table({"ssm_prefill": SCAN})
    work = "2048 steps of 1536 channels, 16 states each"
    assert f"| {work} | vortex | 8 | 1 | 1e-05 |" in lines and f"| {work} | torch | 900 | 112 | 1e-05 |" in lines
    assert "5.00 G decays a second, 62 % of" in lines[-1] and "4.0 GB/s, 20 % of" in lines[-1]


def test_figures_of_two_machines_are_told_apart(tmp_path: Path) -> None:
    written(tmp_path, "resident", Figure())
    written(tmp_path, "limited", Figure(), cpu="Another")
    text = report.section(report.read_results(tmp_path))
    assert "of One" in text and "(figures resident)" in text and "of Another" in text and "(figures limited)" in text


def test_only_what_is_between_the_markers_changes() -> None:
    page = f"before\n{report.BEGIN}old\n{report.END}after\n"
    assert report.replaced(page, "new") == f"before\n{report.BEGIN}\nnew\n{report.END}after\n"
    with pytest.raises(SystemExit, match="markers"):
        report.replaced("no place for it", "new")


SPEEDS = {"decode_tokens_per_s": 5.0, "prefill_tokens_per_s": 50.0}
VORTEX: dict[str, Any] = {
    "vortex_context": {
        "parameters": {"vortex": 100, "llama": 101},
        "threads": 2,
        "entries": [
            {"contender": name, "context": context, "state_bytes": context, **SPEEDS}
            for name in ("vortex", "llama")
            for context in (1024, 4096)
        ],
    },
    "vortex_mqar": {
        "tests": {"trained": [64, 16, 1], "16x": [1024, 16, 1], "16x, 8x the pairs": [1024, 128, 1]},
        "entries": [{"arm": "SSM", "trained": 1.0, "16x": 0.5, "16x, 8x the pairs": 0.1}],
    },
    "vortex_passkey": {
        "trained length": 256,
        "entries": [{"arm": arm, "runs": [{"tests": [{"tokens": 256, "recall": 1.0}]}]} for arm in ("SSM", "LAVA")],
    },
    "vortex_bits": {
        "entries": [
            {"arm": arm, "code": 1.5, "prose": 2.0, "runs": [{"code": 1.4, "prose": 1.9}, {"code": 1.6, "prose": 2.1}]}
            for arm in ("llama", "V-block")
        ]
    },
}


def test_the_plots_are_drawn_from_results(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'vortex-engine[test]'")
    from benchmarks.plots import draw

    rates = {"disk_gb_s": 1.0, "memory_gb_s": 20.0, "compute_gb_s": 14.0, "threads": 2}
    point = {"budget_bytes": 300, "tokens_per_s": 2.0, "bytes_per_token": 400.0, "ceiling_tokens_per_s": 2.5}
    curve = {"model": "m", "total_bytes": 700, "rates": rates, "points": [point], "skipped": []}
    speeds = {"decode_tokens_per_s": {"median": 2.0}, "prefill_tokens_per_s": {"median": 9.0}}
    entries = [{"engine": "vortex", "weights": "exact", **speeds}, {"engine": "llama.cpp", "weights": "BF16", **speeds}]
    limited = {"shape": "m", "entries": [{"engine": "x", "limit_bytes": 600, "tokens_per_s": {"median": 1.0}}]}
    (tmp_path / "c3_limited.json").write_text(json.dumps(limited))
    traces = [
        {"trace": trace, "fraction": fraction, "stable": 1.1, "lru": 4.0, "belady": 1.0}
        for trace in ("sweep", "exit")
        for fraction in (0.25, 0.9)
    ]
    results = {
        "curve": {"curve": curve},
        "resident": {"shape": "m", "threads": 2, "entries": entries},
        "traces": {"entries": traces},
        "bad_limited": LIMITED,
        "bad_ngram": {"entries": [{"contender": "ours", "kind": "edit", "limit": 8, "accepted_per_step": 6.0}]},
        "ssm_prefill": SCAN,
        **VORTEX,
    }
    drawn = draw(results, tmp_path)
    assert [path.name for path in drawn] == list(report.PLOTS)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
