"""Bits per byte of a trained model over whole documents, reported beside the baselines of the same text.

`python -m vortex_engine.train.evaluate --model HF_DIR --valid code_valid.jsonl.gz --json OUT [--baselines FILE]`
"""

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from vortex_engine.train.data import encode_documents, read_corpus
from vortex_engine.train.export import import_hugging_face
from vortex_engine.train.files import write_text_atomically
from vortex_engine.train.model import TinyLlama
from vortex_engine.train.prepare import load_tokenizer
from vortex_engine.train.tokenizer import END_OF_TEXT_ID

_ROWS_AT_ONCE = 4
_TICK_EVERY_WINDOWS = 400


@dataclass(frozen=True)
class Window:
    """One forward pass over a document: tokens [start, stop) are read, targets first_target … stop are scored."""

    document: int
    start: int
    stop: int
    first_target: int


def sliding_windows(length: int, *, document: int, context: int, stride: int) -> list[Window]:
    """Windows that score the targets 1 … length - 1 once each, with at least context - stride tokens before them.

    Targets near the start of a document have what the document offers. `length` counts the separator at position 0.
    """
    windows: list[Window] = []
    first_target = 1
    while first_target < length:
        # The last scored target needs its predecessor as the last input.
        stop = min(length - 1, max(context, first_target - 1 + stride))
        windows.append(Window(document=document, start=max(0, stop - context), stop=stop, first_target=first_target))
        first_target = stop + 1
    return windows


@torch.no_grad()
def model_bits(
    model: TinyLlama, documents: Sequence[NDArray[np.uint16]], windows: Sequence[Window], *, tick: Callable[[str], None]
) -> NDArray[np.float64]:
    """Total bits of each document's scored targets: [n_documents] float64."""
    # Windows of one length go together; padding on the right cannot reach a causal model's earlier positions.
    ordered = sorted(windows, key=lambda window: (window.stop - window.start, window.document, window.start))
    bits = np.zeros(len(documents))
    for first in range(0, len(ordered), _ROWS_AT_ONCE):
        rows = ordered[first : first + _ROWS_AT_ONCE]
        width = max(row.stop - row.start for row in rows)
        ids = np.full((len(rows), width + 1), END_OF_TEXT_ID, dtype=np.int64)
        for place, row in enumerate(rows):
            ids[place, : row.stop - row.start + 1] = documents[row.document][row.start : row.stop + 1]
        batch = torch.from_numpy(ids)
        logits = model(batch[:, :-1]).float()
        nats = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none").view(len(rows), width)
        for place, row in enumerate(rows):
            scored = nats[place, row.first_target - 1 - row.start : row.stop - row.start]
            bits[row.document] += float(scored.double().sum()) / math.log(2)
        if first % _TICK_EVERY_WINDOWS == 0:
            tick(f"window {first} of {len(ordered)}")
    return bits


def evaluate(args: argparse.Namespace) -> dict[str, object]:
    """The report; see `main` for the arguments."""
    model = import_hugging_face(args.model)
    tokenizer = load_tokenizer(args.model / "tokenizer.json")
    documents = list(read_corpus([args.valid]))
    sizes = np.array([len(document.text.encode()) for document in documents])
    encoded = encode_documents(tokenizer, [document.text for document in documents])
    windows = [
        window
        for index, tokens in enumerate(encoded)
        for window in sliding_windows(len(tokens), document=index, context=args.context, stride=args.stride)
    ]
    began_s = time.monotonic()
    with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
        bits = model_bits(model, encoded, windows, tick=lambda text: print(text, file=sys.stderr, flush=True))
    model_s = time.monotonic() - began_s
    languages = np.array([document.lang for document in documents])
    figures: dict[str, float] = {"nano": float(bits.sum() / sizes.sum())}
    report: dict[str, object] = {"bits_per_byte": figures}
    if args.baselines is not None:
        baselines = json.loads(args.baselines.read_text(encoding="utf-8"))
        if baselines["text"] != args.valid.name:
            raise ValueError(f"[evaluate] baselines must be of the text {args.valid.name}, got {baselines['text']}")
        figures |= baselines["bits_per_byte"]
        report["ngram_train_tokens"] = baselines["train_tokens"]
    return report | {
        "nano_by_language": {
            language: {
                "bits_per_byte": float(bits[languages == language].sum() / sizes[languages == language].sum()),
                "text_bytes": int(sizes[languages == language].sum()),
            }
            for language in sorted(set(languages.tolist()))
        },
        "protocol": {
            "text": args.valid.name,
            "n_documents": len(documents),
            "text_bytes": int(sizes.sum()),
            "text_tokens": sum(len(tokens) - 1 for tokens in encoded),
            "context_tokens": args.context,
            "stride_tokens": args.stride,
            "precision": args.precision,
            "model": "bfloat16 weights; each document alone, from the separator; separators are not scored",
            "ngrams": "trained on every packed training token; one stream, separators are not scored",
            "compressors": "all documents concatenated without separators",
        },
        "model_seconds": model_s,
        "command": " ".join(
            ["python -m vortex_engine.train.evaluate --model hf --valid", args.valid.name]
            + [f"--context {args.context} --stride {args.stride} --precision {args.precision}"]
            + [f"--threads {args.threads}"]
            + ([] if args.baselines is None else ["--baselines", args.baselines.name])
        ),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
    }


def describe_machine() -> dict[str, object]:
    """Processor, threads and versions the figures were computed with."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "n_threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute the report and write it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m vortex_engine.train.evaluate", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face directory of the model")
    parser.add_argument("--valid", type=Path, required=True, help="gzip JSONL file of validation text")
    parser.add_argument("--json", type=Path, required=True, help="report to write")
    parser.add_argument("--baselines", type=Path, help="figures made by vortex_engine.train.baselines")
    parser.add_argument("--context", type=int, default=1024, help="tokens")
    parser.add_argument("--stride", type=int, default=512, help="tokens")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="arithmetic")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    write_text_atomically(args.json, json.dumps(evaluate(args), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
