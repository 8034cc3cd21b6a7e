"""What gets imported: almost nothing by the package itself, never torch by a generation on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vortex_engine as vx

HEAVY = ("numpy", "torch", "pydantic", "typer", "rich", "tokenizers", "transformers", "yaml", "safetensors")


def loaded_after(code: str) -> list[str]:
    """Names of HEAVY modules that a fresh interpreter has after running `code`."""
    report = f"\nimport sys, json; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_package_alone_is_light() -> None:
    assert loaded_after("import vortex_engine; vortex_engine.BudgetError; dir(vortex_engine)") == []


def test_importing_takes_less_than_150_ms() -> None:
    # The best of several: a busy machine says nothing about the import.
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import vortex_engine"], check=True)
        middle = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        times.append((middle - start) - (time.perf_counter() - middle))
    assert min(times) < 0.15


def test_generation_on_the_cpu_imports_no_torch(tiny_c3_dir: Path) -> None:
    code = f"""
import vortex_engine as vx
model = vx.load({str(tiny_c3_dir)!r}, ram_budget="300KiB")
model.generate("def f", max_new_tokens=3, temperature=0.8, top_p=0.9)
model.logits("def f")
"""
    found = loaded_after(code)
    assert "numpy" in found
    assert not {"torch", "transformers", "pydantic", "typer"} & set(found)


def test_every_exported_name_exists() -> None:
    assert vx.__all__ == sorted(vx.__all__)
    for name in vx.__all__:
        assert getattr(vx, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vx.nothing  # noqa: B018 - reading it is the test
