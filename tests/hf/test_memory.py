"""What a process holds that runs a model several times larger than its budget."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vortex_engine as vx

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[test]'")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'vortex-engine[test]'"
)

BUDGET_BYTES = 6 << 20
# README, "With transformers"; small tensors and activations, here small too, are in it.
CONSTANT_BYTES = 8 << 20
SMALL = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
LARGE = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4}

# The first model pays for what torch and transformers load once.
RUN = """
import json, sys, torch, vortex_engine.hf as hf
from transformers import AutoModelForCausalLM

def peak_rss_bytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

def run(path):
    config = hf.C3Config(ram_budget=int(sys.argv[3]))
    model = AutoModelForCausalLM.from_pretrained(path, quantization_config=config)
    with torch.no_grad():
        model(torch.arange(8)[None])
    return hf.stats(model)

run(sys.argv[1])
before = peak_rss_bytes()
stats = run(sys.argv[2])
print(json.dumps({"grown_bytes": peak_rss_bytes() - before, "total_bytes": stats["total_bytes"]}))
"""


def pack_zeros(folder: Path, sizes: dict[str, Any]) -> Path:
    """A packed model; its tiles are as large as those of any weights."""
    config = transformers.Phi3Config(**sizes, num_attention_heads=8, vocab_size=2000, pad_token_id=0)
    with torch.device("meta"):
        model = transformers.Phi3ForCausalLM(config).to(torch.bfloat16)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.save_pretrained(folder / "source")
    vx.pack(folder / "source", folder / "c3")
    return folder / "c3"


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak RSS from /proc: needs Linux")
def test_a_load_stays_within_its_budget_and_a_constant(tmp_path: Path) -> None:
    paths = [str(pack_zeros(tmp_path / name, sizes)) for name, sizes in (("small", SMALL), ("large", LARGE))]
    run = subprocess.run([sys.executable, "-c", RUN, *paths, str(BUDGET_BYTES)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["total_bytes"] > 4 * BUDGET_BYTES
    assert BUDGET_BYTES // 2 < result["grown_bytes"] <= BUDGET_BYTES + CONSTANT_BYTES
