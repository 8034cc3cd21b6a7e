"""Train `nano`, the small code model that ships with the engine: `python -m vortex_engine.train.nano --help`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from vortex_engine.train.bits import spread_windows, token_byte_lengths, window_bits_per_byte
from vortex_engine.train.checkpoint import load_checkpoint
from vortex_engine.train.data import BlockOrder, Document, open_packed, pack_documents, read_corpus
from vortex_engine.train.export import export_hugging_face
from vortex_engine.train.loop import LATEST, Budget, LoopConfig, StopSignal, Trainer, resume
from vortex_engine.train.model import LlamaSize, TinyLlama
from vortex_engine.train.optim import MuonAdamW, OptimConfig
from vortex_engine.train.prepare import PrepareConfig, load_tokenizer, prepare_corpus
from vortex_engine.train.progress import Reporter
from vortex_engine.train.schedule import Schedule

EXIT_INTERRUPTED = 130
SIZE = LlamaSize(
    vocab_size=4096,
    hidden_size=320,
    intermediate_size=864,
    n_layers=4,
    n_heads=5,
    n_kv_heads=1,
    head_dim=64,
    max_positions=1024,
)
# Python and Rust in full, the rest thinned: the corpus is larger than what one short run on a CPU can read.
KEEP_BY_LANG = {"Python": 1.0, "Rust": 1.0, "JavaScript": 0.6, "TypeScript": 0.6, "markdown": 0.6, "rst": 0.4}
DEFAULT_KEEP = 0.4
TOKENIZER_TEXT_BYTES = 30_000_000
N_VALID_WINDOWS = 48


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line of the trainer."""
    parser = argparse.ArgumentParser(prog="python -m vortex_engine.train.nano", description=__doc__)
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="gzip JSONL files to train on")
    parser.add_argument("--valid", type=Path, required=True, help="gzip JSONL file for validation figures only")
    parser.add_argument("--work-dir", type=Path, required=True, help="tokenizer, packed tokens, checkpoints, metrics")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--steps", type=int, help="train up to this step")
    budget.add_argument("--time-budget-min", type=float, help="train for so many minutes, pauses left out")
    budget.add_argument("--export-only", action="store_true", help="train no further, export the latest checkpoint")
    parser.add_argument("--export", type=Path, help="write the Hugging Face directory here at the end")
    parser.add_argument("--pause-file", type=Path, help="sleep while this file exists")
    parser.add_argument("--seq-len", type=int, default=SIZE.max_positions, help="may change when resuming")
    parser.add_argument("--blocks-per-step", type=int, default=12, help="blocks of 1024 tokens a step")
    parser.add_argument("--micro-batch-tokens", type=int, default=2048)
    parser.add_argument("--matrix-lr", type=float, default=OptimConfig.matrix_lr)
    parser.add_argument("--vector-lr", type=float, default=OptimConfig.vector_lr)
    parser.add_argument("--decay-fraction", type=float, default=Schedule.decay_fraction)
    parser.add_argument("--workers", type=int, default=2, help="one-thread workers that share the rows of a step")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--compile", action="store_true", help="fuse with torch.compile (needs a C++ compiler)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, train or resume, export; returns the exit status (130 when interrupted)."""
    args = parse_arguments(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    prepared = prepare_corpus(
        args.corpus,
        args.work_dir,
        PrepareConfig(
            vocab_size=SIZE.vocab_size,
            keep_by_lang=KEEP_BY_LANG,
            default_keep=DEFAULT_KEEP,
            tokenizer_text_bytes=TOKENIZER_TEXT_BYTES,
            seed=args.seed,
        ),
    )
    tokenizer = load_tokenizer(prepared.tokenizer_path)
    model = TinyLlama(SIZE)
    bf16 = args.precision == "bf16"
    optimizer = MuonAdamW(model, OptimConfig(matrix_lr=args.matrix_lr, vector_lr=args.vector_lr, low_precision=bf16))
    if args.export_only:
        if args.export is None:
            raise ValueError("[nano] --export-only needs --export, got none")
        load_checkpoint(args.work_dir / LATEST, model, optimizer)
        export_hugging_face(model, tokenizer, args.export)
        return 0
    config = LoopConfig(
        budget=Budget(steps=args.steps, seconds=None if args.time_budget_min is None else 60.0 * args.time_budget_min),
        schedule=Schedule(decay_fraction=args.decay_fraction),
        seq_len=args.seq_len,
        micro_batch_rows=max(1, args.micro_batch_tokens // args.seq_len),
        n_workers=args.workers,
        bf16=bf16,
        compile_loss=args.compile,
        pause_file=args.pause_file,
    )
    position = resume(args.work_dir, model, optimizer, config)
    order = BlockOrder(
        open_packed(prepared.tokens_path),
        block_tokens=SIZE.max_positions,
        blocks_per_step=args.blocks_per_step,
        seed=args.seed,
    )
    valid_path = args.work_dir / "valid.u16"
    if not valid_path.exists():
        documents: list[Document] = list(read_corpus([args.valid]))
        pack_documents(documents, tokenizer, path=valid_path)
    windows = spread_windows(open_packed(valid_path), n_windows=N_VALID_WINDOWS, length=args.seq_len)
    byte_lengths = token_byte_lengths(tokenizer)
    trainer = Trainer(
        model,
        optimizer,
        order,
        config,
        work_dir=args.work_dir,
        validate=lambda: window_bits_per_byte(model, windows, byte_lengths),
    )
    with StopSignal() as stop, Reporter(args.work_dir / "metrics.jsonl", last_step=position.step) as reporter:
        reporter.note(f"corpus {prepared.n_tokens} tokens, one epoch {order.steps_per_epoch} steps, at {position}")
        position = trainer.run(position, reporter, stop)
        reporter.note(f"stopped at {position}")
    if stop.requested:
        return EXIT_INTERRUPTED
    if args.export is not None:
        export_hugging_face(model, tokenizer, args.export)
    return 0


if __name__ == "__main__":
    sys.exit(main())
