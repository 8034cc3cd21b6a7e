"""A process that decodes with AirLLM on the CPU: `run_airllm.py JOB`; model, shards (a folder), threads, tokens."""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

import torch


def main() -> None:
    """Decode greedily; AirLLM times its own layers, this only counts tokens."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    model: Any = importlib.import_module("airllm").AutoModel.from_pretrained(
        job["model"], device="cpu", dtype=torch.bfloat16, layer_shards_saving_path=job["shards"]
    )
    ids = torch.tensor([[(7919 * i + 1) % model.config.vocab_size for i in range(16)]])
    times: list[float] = []
    for n_tokens in (1, 1 + job["tokens"]):
        start = time.perf_counter()
        model.generate(ids, max_new_tokens=n_tokens, use_cache=True, return_dict_in_generate=True, do_sample=False)
        times.append(time.perf_counter() - start)
    print(json.dumps({"tokens_per_s": job["tokens"] / (times[1] - times[0])}))


if __name__ == "__main__":
    main()
