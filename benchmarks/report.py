"""README's section of measured numbers, and its plots, from the committed results of `benchmarks.c3`, `.bad`,
`.ssm`, `.lava` and `.vortex`.

`python -m benchmarks.report` rewrites the section between its two markers and draws its pictures, results/*.png;
`--check` changes nothing and fails where the section is not what the results say.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.bad.report import FIGURES as BAD_FIGURES
from benchmarks.bad.report import budget_table
from benchmarks.c3.__main__ import FIGURES
from benchmarks.lava.__main__ import FIGURES as LAVA_FIGURES
from benchmarks.machine import RESULTS
from benchmarks.ssm.report import FIGURES as SSM_FIGURES
from benchmarks.ssm.report import scan_table
from benchmarks.vortex.report import FIGURES as VORTEX_FIGURES

README = RESULTS.parents[1] / "README.md"
BEGIN = "<!-- numbers: python -m benchmarks.report -->\n"
END = "<!-- end of numbers -->\n"
# Figure -> its file in results/, without .json.
FILES = {name: f"c3_{name}" for name in FIGURES} | {
    f"{folder}_{name}": f"{folder}_{name}"
    for folder, names in {
        "bad": BAD_FIGURES,
        "ssm": SSM_FIGURES,
        "lava": LAVA_FIGURES,
        "vortex": VORTEX_FIGURES,
    }.items()
    for name in names
}
PLOTS = {
    "c3_budget_curve.png": ("curve", "Decoding speed and bytes a token over the RAM budget"),
    "c3_peers.png": ("resident", "Decoding and prefill beside llama.cpp"),
    "c3_traces.png": ("traces", "Bytes that the paging policies read over Belady's, by budget and pattern of access"),
    "bad_budgets.png": ("bad_limited", "Tokens a second over the RAM budget: plain, speculating, llama.cpp"),
    "bad_ngram.png": ("bad_ngram", "Accepted tokens a step of n-gram drafting on traces of code edits"),
    "ssm_scans.png": ("ssm_prefill", "Time of the selective scan and of a Mamba model beside others"),
    "vortex_context.png": (
        "vortex_context",
        "Memory and speed over the context, beside a llama of equal size",
    ),
    "vortex_parts.png": ("vortex_mqar", "What the parts of a VORTEX model are worth: recall, pass keys, bits a byte"),
}


def read_results(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """The result of every figure that was measured, in the order of the harnesses."""
    files = {name: folder / f"{file}.json" for name, file in FILES.items()}
    return {name: json.loads(file.read_bytes()) for name, file in files.items() if file.is_file()}


def section(results: dict[str, dict[str, Any]]) -> str:
    """The section's text, markers left out."""
    lines: list[str] = []
    missing = [name for name in FILES if name not in results]
    for machine, names in _machines(results).items():
        which = "" if len(names) == len(results) else f" (figures {', '.join(names)})"
        lines.append(f"Measured on {machine}{which}.")
    if results:
        lines += ["", "| figure | beside | target | measured | met |", "|---|---|---|---|---|"]
        lines += [_row(name, claim) for name, result in results.items() for claim in result["claims"]]
        lines.append("")
    if "bad_limited" in results:
        lines += [*budget_table(results["bad_limited"]), ""]
    if any(f"ssm_{name}" in results for name in SSM_FIGURES):
        lines += [*scan_table(results), ""]
    skipped = [f"{name}: {line}" for name, result in results.items() for line in dict.fromkeys(result["skipped"])]
    if skipped:
        lines += ["Left out, and why:", "", *(f"- {line}" for line in skipped), ""]
    if missing:
        lines += [f"Without a committed result: {', '.join(missing)}.", ""]
    for plot, (name, what) in PLOTS.items():
        if name in results:
            lines += [f"![{what}](benchmarks/results/{plot})", ""]
    return "\n".join(lines)


def _row(name: str, claim: dict[str, Any]) -> str:
    """One claim as a row of the table; the measured value links its result."""
    sign = {">=": "≥", "<=": "≤"}[claim["sign"]]
    measured = f"[{_digits(claim['measured'])}](benchmarks/results/{FILES[name]}.json)"
    detail = f": {claim['detail']}" if claim.get("detail") else ""
    verdict = "yes" if claim["met"] else "**no**"
    cells = (claim["what"], claim.get("peer", ""), f"{sign} {claim['target']:g}", measured + detail, verdict)
    return f"| {' | '.join(cells)} |"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == 0 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def _machines(results: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """A sentence for each machine, with the figures that were measured there."""
    groups: dict[str, list[str]] = {}
    for name, result in results.items():
        machine = result["machine"]
        simd = next((flag for flag in ("avx512f", "avx2", "asimd") if flag in machine["cpu_flags"]), "scalar code")
        ram = f"{machine['ram_bytes'] / 2**30:.0f} GiB of RAM"
        groups.setdefault(f"{machine['n_cores']} cores of {machine['cpu']} ({simd}), {ram}", []).append(name)
    found: dict[str, list[str]] = {}
    for words, names in groups.items():
        machines = [results[name]["machine"] for name in names]
        memory, disk = (
            _range([machine[key] for machine in machines]) for key in ("read_bandwidth_2_gb_s", "disk_read_gb_s")
        )
        dates = sorted({machine["date"][:10] for machine in machines})
        found[f"{words} read at {memory} GB/s by two threads, a disk of {disk} GB/s, {' and '.join(dates)}"] = names
    return found


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def replaced(page: str, text: str) -> str:
    """`page` with what stands between the markers replaced.

    Raises:
        SystemExit: a marker is missing.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise SystemExit(f"{README.name} needs the markers {BEGIN.strip()} and {END.strip()} once each")
    before, rest = page.split(BEGIN)
    return before + BEGIN + "\n" + text + "\n" + END + rest.split(END)[1]


def main() -> None:
    """Rewrite, or check."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where README is not fresh")
    arguments = parser.parse_args()
    results = read_results()
    page = README.read_text()
    fresh = replaced(page, section(results))
    if arguments.check:
        if page != fresh:
            raise SystemExit("README.md: the numbers are not those of the results; run python -m benchmarks.report")
        return
    README.write_text(fresh)
    if any(name in results for name, _ in PLOTS.values()):
        from benchmarks.plots import draw

        for plot in draw(results, RESULTS):
            print(plot)
    print(README)


if __name__ == "__main__":
    main()
