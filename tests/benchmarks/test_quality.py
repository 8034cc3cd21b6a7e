"""The figure of divergences: its checkpoint is the one that was packed, its choices keep the size they are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.c3.quality import random_choice
from benchmarks.c3.unpacked_checkpoint import write_unpacked

import vortex_engine as vx


def test_an_unpacked_model_packs_to_the_same_shards(tiny_c3_dir: Path, tmp_path: Path) -> None:
    source = write_unpacked(tiny_c3_dir, tmp_path / "source")
    assert write_unpacked(tiny_c3_dir, source) == source
    vx.pack(source, tmp_path / "again.c3")
    shards = [path.name for path in tiny_c3_dir.glob("*.safetensors")]
    assert shards
    for name in shards:
        assert (tmp_path / "again.c3" / name).read_bytes() == (tiny_c3_dir / name).read_bytes()


@pytest.mark.parametrize("seed", range(4))
def test_random_choices_fill_the_budget(seed: int) -> None:
    sizes = {codec: {f"w{i}": n * (i + 1) for i in range(20)} for codec, n in (("int4", 4), ("int8", 8), ("exact", 11))}
    for budget_bytes in (840, 1200, 1800):
        chosen = random_choice(sizes, budget_bytes, seed)
        left = budget_bytes - sum(sizes[codec][name] for name, codec in chosen.items())
        more = [sizes["int8"][name] - sizes["int4"][name] for name, codec in chosen.items() if codec == "int4"]
        assert 0 <= left < min(more, default=np.inf)
    assert random_choice(sizes, 1800, seed) != random_choice(sizes, 1800, seed + 1)
