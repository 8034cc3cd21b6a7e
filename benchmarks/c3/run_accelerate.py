"""A process that decodes with transformers and accelerate; weights that do not fit are offloaded to disk.

`run_accelerate.py JOB`: model (a checkpoint directory), memory_bytes (for weights), offload (a folder),
threads, tokens.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    """Decode greedily with a KV cache; the first two sweeps are not timed."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    model: Any = AutoModelForCausalLM.from_pretrained(
        job["model"],
        dtype=torch.bfloat16,
        device_map="auto",
        max_memory={"cpu": job["memory_bytes"]},
        offload_folder=job["offload"],
    )
    placed = list(model.hf_device_map.values())
    ids = torch.tensor([[(7919 * i + 1) % model.config.vocab_size for i in range(16)]])
    cache = None
    times: list[float] = []
    with torch.inference_mode():
        for _ in range(job["tokens"] + 2):
            out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)
            times.append(time.perf_counter())
    tokens_per_s = job["tokens"] / (times[-1] - times[1])
    print(json.dumps({"tokens_per_s": tokens_per_s, "modules_on_disk": placed.count("disk"), "modules": len(placed)}))


if __name__ == "__main__":
    main()
