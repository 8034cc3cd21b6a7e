"""The models whose memory and speed are compared are of equal size, and are what their configurations say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.vortex.context_models import BLOCK, LLAMA, checkpoint, n_parameters, shape_of
from benchmarks.vortex.context_plot import draw_context

import vortex_engine as vx


@pytest.mark.parametrize("quick", [True, False])
def test_equal_sizes(quick: bool) -> None:
    ours, theirs = (n_parameters(shape_of(kind, quick)) for kind in (BLOCK, LLAMA))
    assert abs(ours / theirs - 1) < 0.02
    assert quick or 20e6 < ours < 60e6


@pytest.mark.parametrize("kind", [BLOCK, LLAMA])
def test_a_checkpoint_runs(tmp_path: Path, kind: str) -> None:
    source = checkpoint(tmp_path / "hf", kind, quick=True)
    assert checkpoint(tmp_path / "hf", kind, quick=True) == source
    vx.pack(source, tmp_path / "c3")
    with vx.load(tmp_path / "c3", threads=1) as model:
        logits = model.logits([1, 2, 3])
    assert np.isfinite(logits).all() and logits.std() > 0.1


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'vortex-engine[plot]'")
    entry = {"state_bytes": 1e6, "decode_tokens_per_s": 9.0, "prefill_tokens_per_s": 99.0}
    entries = [{"contender": name, "context": n, **entry} for name in ("V-block", "llama") for n in (1024, 4096)]
    result = {"entries": entries, "parameters": {"vortex": 1, "llama": 1}, "threads": 2}
    assert draw_context(result, tmp_path / "picture.png").stat().st_size > 1000
