"""Train multi-token heads for a frozen model: `python -m vortex_engine.train.multi_token --help`.

Head i turns the final normalised state h into h + silu(W_i h), and the model's own output matrix reads from that the
token i + 2 places on (Medusa-1: arXiv 2401.10774, section 2.1.1). Only the W_i are trained, from zero, where every head
is the model itself.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType] - its path is untyped
from torch import nn

from vortex_engine.errors import ModelConfigError, TargetExistsError
from vortex_engine.models.config import MAX_MTP_K
from vortex_engine.train.data import BlockOrder, open_packed, pack_documents, read_corpus
from vortex_engine.train.export import import_hugging_face
from vortex_engine.train.files import save_tensors_atomically, write_text_atomically
from vortex_engine.train.model import TinyLlama
from vortex_engine.train.optim import MuonAdamW, OptimConfig
from vortex_engine.train.prepare import load_tokenizer
from vortex_engine.train.schedule import Schedule
from vortex_engine.train.stop import StopSignal

__all__ = ["HeadsConfig", "MultiTokenHeads", "export_with_heads", "head_losses", "main", "train_heads"]

EXIT_INTERRUPTED = 130
_HEAD_WEIGHT = 0.8  # a head's loss counts so much less than that of the head before it, as the paper has it
_PAUSE_POLL_S = 1.0


@dataclass(frozen=True)
class HeadsConfig:
    """What a run of the trainer depends on besides model and corpus."""

    k: int = 3
    steps: int = 500
    rows: int = 8
    seq_len: int = 256
    lr: float = 0.02
    seed: int = 1


class _Head(nn.Module):
    """h + silu(W h) with W [hidden, hidden], zero at first."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.state_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        nn.init.zeros_(self.state_proj.weight)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + F.silu(self.state_proj(h))


class MultiTokenHeads(nn.Module):
    """`k` heads that read one state."""

    def __init__(self, k: int, hidden_size: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(_Head(hidden_size) for _ in range(k))

    @property
    def weights(self) -> list[torch.Tensor]:
        """The matrix of every head."""
        return list(self.parameters())

    def forward(self, h: torch.Tensor) -> list[torch.Tensor]:
        """States [..., hidden] of every head."""
        return [head(h) for head in self.heads]


def head_losses(
    heads: MultiTokenHeads, output: torch.Tensor, h: torch.Tensor, ids: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of every head the mean cross-entropy in nats, and the share of tokens it would choose greedily.

    Args:
        output: matrix of the model's logits, [vocab, hidden].
        h: states [B, T, hidden] of ids[:, :T]; ids: [B, T + 1] int64.
    """
    results: list[tuple[torch.Tensor, torch.Tensor]] = []
    for i, state in enumerate(heads(h)):
        targets = ids[:, i + 2 :].flatten()
        logits = F.linear(state[:, : ids.shape[1] - i - 2], output).flatten(0, 1)
        hits = (logits.detach().argmax(-1) == targets).float().mean()
        results.append((F.cross_entropy(logits, targets), hits))
    return results


def train_heads(
    model: TinyLlama,
    batches: Iterator[torch.Tensor],
    config: HeadsConfig,
    *,
    stop: StopSignal | None = None,
    pause_file: Path | None = None,
) -> MultiTokenHeads:
    """Heads for a frozen model; a stop request ends the run early with what is trained.

    Args:
        batches: ids [rows, seq_len + 1] int64, one batch a step.
    """
    heads = MultiTokenHeads(config.k, model.size.hidden_size)
    output = model.model.embed_tokens.weight.detach()
    optimizer = MuonAdamW(heads, OptimConfig(matrix_lr=config.lr, weight_decay=0.0))
    schedule = Schedule(warmup_steps=min(20, config.steps // 10))
    for step in range(config.steps):
        while pause_file is not None and pause_file.exists() and not (stop and stop.requested):
            time.sleep(_PAUSE_POLL_S)
        if stop is not None and stop.requested:
            break
        ids = next(batches)
        with torch.no_grad():
            h = model.hidden(ids[:, :-1])
        results = head_losses(heads, output, h, ids)
        loss = sum((_HEAD_WEIGHT**i * nats for i, (nats, _) in enumerate(results)), torch.zeros(()))
        for weight, gradient in zip(heads.weights, torch.autograd.grad(loss, heads.weights), strict=True):
            weight.grad = gradient
        optimizer.step(step, lr_scale=schedule.lr_scale(step, progress=step / config.steps))
        if step % 20 == 0 or step == config.steps - 1:
            shown = " ".join(f"{float(nats.detach()):.3f}/{float(hits):.3f}" for nats, hits in results)
            print(f"step {step}: nats/top-1 of each head {shown}", file=sys.stderr, flush=True)
    return heads


def export_with_heads(source: Path, target: Path, heads: MultiTokenHeads) -> None:
    """Write a copy of a Hugging Face directory with `mtp_k` and tensors `mtp.{i}.weight` in bfloat16.

    The weight file comes last, so a reader that waits for it finds the rest in place.

    Raises:
        TargetExistsError: the target exists.
    """
    if target.exists():
        raise TargetExistsError(f"[multi_token] {target} exists; nothing is overwritten: give another name")
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name not in ("config.json", "model.safetensors"):
            shutil.copyfile(path, target / path.name)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    write_text_atomically(target / "config.json", json.dumps({**config, "mtp_k": len(heads.weights)}, indent=2) + "\n")
    tensors = load_file(source / "model.safetensors")
    tensors |= {f"mtp.{i}.weight": weight.detach().bfloat16() for i, weight in enumerate(heads.weights)}
    save_tensors_atomically(target / "model.safetensors", tensors, metadata={"format": "pt"})


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line of the trainer."""
    parser = argparse.ArgumentParser(prog="python -m vortex_engine.train.multi_token", description=__doc__)
    parser.add_argument("model", type=Path, help="Hugging Face directory of a llama with tied embeddings, as nano's")
    parser.add_argument("out", type=Path, help="directory to make: the model with its heads")
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="gzip JSONL files to train on")
    parser.add_argument("--work-dir", type=Path, required=True, help="packed tokens, made once and used again")
    parser.add_argument("--k", type=int, default=HeadsConfig.k, help=f"heads, 1 to {MAX_MTP_K}")
    parser.add_argument("--steps", type=int, default=HeadsConfig.steps)
    parser.add_argument("--rows", type=int, default=HeadsConfig.rows, help="sequences a step")
    parser.add_argument("--seq-len", type=int, default=HeadsConfig.seq_len)
    parser.add_argument("--lr", type=float, default=HeadsConfig.lr)
    parser.add_argument("--seed", type=int, default=HeadsConfig.seed)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pause-file", type=Path, help="sleep while this file exists")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and export; returns the exit status (130 when interrupted, with what was trained exported)."""
    args = parse_arguments(arguments)
    if not 1 <= args.k <= MAX_MTP_K:
        raise ValueError(f"[multi_token] k must lie between 1 and {MAX_MTP_K}, got {args.k}")
    if args.out.exists():
        raise TargetExistsError(f"[multi_token] {args.out} exists; nothing is overwritten: give another name")
    if not (args.model / "model.safetensors").is_file():
        raise ModelConfigError(f"[multi_token] {args.model} has no model.safetensors; give an unpacked checkpoint")
    torch.set_num_threads(args.threads)
    config = HeadsConfig(args.k, args.steps, args.rows, args.seq_len, args.lr, args.seed)
    model = import_hugging_face(args.model).requires_grad_(False)
    tokens_path = args.work_dir / "tokens.u16"
    if not tokens_path.exists():
        args.work_dir.mkdir(parents=True, exist_ok=True)
        pack_documents(list(read_corpus(args.corpus)), load_tokenizer(args.model / "tokenizer.json"), path=tokens_path)
    order = BlockOrder(
        open_packed(tokens_path), block_tokens=config.seq_len, blocks_per_step=config.rows, seed=config.seed
    )
    with StopSignal() as stop:
        heads = train_heads(model, _batches(order, config), config, stop=stop, pause_file=args.pause_file)
    export_with_heads(args.model, args.out, heads)
    return EXIT_INTERRUPTED if stop.requested else 0


def _batches(order: BlockOrder, config: HeadsConfig) -> Iterator[torch.Tensor]:
    for step in range(config.steps):
        yield order.rows(step, seq_len=config.seq_len)


if __name__ == "__main__":
    sys.exit(main())
