"""A process that packs once, so that its peak is packing's own: `run_pack.py JOB`; source, target, codec, threads."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import vortex_engine as vx
from vortex_engine.machine import peak_rss_bytes


def main() -> None:
    """Pack and say how long it took."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    start = time.perf_counter()
    report = vx.pack(job["source"], job["target"], codec=job["codec"], threads=job["threads"])
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_rss_bytes": peak_rss_bytes(), "packed_bytes": report.packed_bytes}))


if __name__ == "__main__":
    main()
