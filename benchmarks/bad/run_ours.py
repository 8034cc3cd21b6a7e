"""A process that continues prompts with one packed model and nothing else: `run_ours.py JOB`, JSON in and out.

JOB: model, budget_bytes, threads, prompts (lists of ids), max_new_tokens, warm_up_tokens, and the options of
`Model.generate` that all of them share. Answers: for each prompt its token_ids and stats; peak_rss_bytes.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import vortex_engine as vx
from vortex_engine.machine import peak_rss_bytes


def main() -> None:
    """Run one job."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    options: dict[str, Any] = {"ignore_eos": True, **job["options"]}
    with vx.load(job["model"], ram_budget=job["budget_bytes"], threads=job["threads"]) as model:
        # The first sweeps fill the budget and profile the drafters; the speed is that of the steady state.
        model.generate(job["prompts"][0], max_new_tokens=job["warm_up_tokens"], **options)
        outputs = [model.generate(prompt, max_new_tokens=job["max_new_tokens"], **options) for prompt in job["prompts"]]
        answers = [{"token_ids": list(out.token_ids), "stats": dict(out.stats)} for out in outputs]
    print(json.dumps({"answers": answers, "peak_rss_bytes": peak_rss_bytes()}))


if __name__ == "__main__":
    main()
