"""A process that measures one packed model and nothing else: `run_ours.py JOB`, JSON in and out.

JOB: model, budget_bytes, threads, warm_up_tokens, decode_tokens, prefill_tokens (0: no prefill is measured), and
perhaps more options of `vx.load`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import vortex_engine as vx
from vortex_engine.machine import peak_rss_bytes

_PROMPT_TOKENS = 16


def main() -> None:
    """Measure one job."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    result: dict[str, Any] = {}
    with vx.load(
        job["model"], ram_budget=job["budget_bytes"], threads=job["threads"], **job.get("options", {})
    ) as model:
        ids = [(7919 * i + 1) % model.vocab_size for i in range(max(_PROMPT_TOKENS, job["prefill_tokens"]))]
        # The first sweeps fill the budget; the speed is that of the steady state.
        model.generate(ids[:_PROMPT_TOKENS], max_new_tokens=job["warm_up_tokens"], ignore_eos=True, speculate="off")
        out = model.generate(
            ids[:_PROMPT_TOKENS], max_new_tokens=job["decode_tokens"], ignore_eos=True, speculate="off"
        )
        result |= {"decode": dict(out.stats), "token_ids": list(out.token_ids), "peak_rss_bytes": peak_rss_bytes()}
        if job["prefill_tokens"]:
            out = model.generate(ids[: job["prefill_tokens"]], max_new_tokens=1, ignore_eos=True, speculate="off")
            result["prefill_tokens_per_s"] = out.stats["prefill_tokens_per_s"]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
