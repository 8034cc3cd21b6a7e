"""Train `nano` and `nano-vortex`, the small code models of the engine: `python -m vortex_engine.train.nano --help`."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from vortex_engine.errors import ModelConfigError
from vortex_engine.train.bits import spread_windows
from vortex_engine.train.checkpoint import LAST, MODEL, RunDirectory
from vortex_engine.train.codec import open_codec
from vortex_engine.train.config import DataSection, LoopSection, OptimSection, ScheduleSection, TrainConfig
from vortex_engine.train.data import Document, open_packed, pack_documents, read_corpus
from vortex_engine.train.inputs import TrainData
from vortex_engine.train.launch import run
from vortex_engine.train.optim import OptimConfig
from vortex_engine.train.parallel import World
from vortex_engine.train.prepare import PrepareConfig, Prepared, load_tokenizer, prepare_corpus
from vortex_engine.train.progress import Reporter
from vortex_engine.train.schedule import Schedule
from vortex_engine.train.tokenizer import END_OF_TEXT

EXIT_INTERRUPTED = 130
VOCAB_SIZE = 4096
MODEL_SECTIONS = {
    "llama": {
        "model_type": "llama",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 320,
        "intermediate_size": 864,
        "num_hidden_layers": 4,
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "max_position_embeddings": 1024,
    },
    # As many parameters, multi-token heads included.
    "vortex": {
        "model_type": "vortex",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 320,
        "intermediate_size": 588,
        "num_hidden_layers": 4,
        "layer_parts": [["conv", "ssm", "mlp"], ["conv", "ssm", "lava", "mlp"]] * 2,
        "ssm_num_heads": 10,
        "ssm_head_dim": 32,
        "ssm_state_size": 32,
        "ssm_n_groups": 1,
        "ssm_conv_kernel": 4,
        "lava_num_heads": 5,
        "lava_key_dim": 64,
        "lava_value_dim": 64,
        "lava_clusters": 64,
        "lava_cluster_top": 8,
        "lava_top_k": 64,
        "lava_capacity": 65536,
        "mtp_k": 2,
    },
}
BLOCK_TOKENS = 1024
# Python and Rust in full, the rest thinned: the corpus is larger than what one short run on a CPU can read.
KEEP_BY_LANG = {"Python": 1.0, "Rust": 1.0, "JavaScript": 0.6, "TypeScript": 0.6, "markdown": 0.6, "rst": 0.4}
DEFAULT_KEEP = 0.4
TOKENIZER_TEXT_BYTES = 30_000_000


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line of the trainer."""
    parser = argparse.ArgumentParser(prog="python -m vortex_engine.train.nano", description=__doc__)
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="gzip JSONL files to train on")
    parser.add_argument("--valid", type=Path, required=True, help="gzip JSONL file for validation figures only")
    parser.add_argument("--architecture", choices=sorted(MODEL_SECTIONS), default="llama")
    parser.add_argument("--work-dir", type=Path, required=True, help="tokenizer, packed tokens, checkpoints, metrics")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--steps", type=int, help="train up to this step")
    budget.add_argument("--time-budget-min", type=float, help="train for so many minutes, pauses left out")
    budget.add_argument("--export-only", action="store_true", help="train no further, export the latest checkpoint")
    parser.add_argument("--export", type=Path, help="write the Hugging Face directory here at the end")
    parser.add_argument("--pause-file", type=Path, help="sleep while this file exists")
    parser.add_argument("--seq-len", type=int, default=BLOCK_TOKENS, help="may change when resuming")
    parser.add_argument("--blocks-per-step", type=int, default=12, help="blocks of 1024 tokens a step")
    parser.add_argument("--micro-batch-tokens", type=int, default=2048)
    parser.add_argument("--matrix-lr", type=float, default=OptimConfig.matrix_lr)
    parser.add_argument("--vector-lr", type=float, default=OptimConfig.vector_lr)
    parser.add_argument("--decay-fraction", type=float, default=Schedule.decay_fraction)
    parser.add_argument("--workers", type=int, default=2, help="one-thread workers that share the rows of a step")
    parser.add_argument("--valid-windows", type=int, default=48, help="sequences that validation figures are taken on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--compile", action="store_true", help="fuse with torch.compile (needs a C++ compiler)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, train or resume, export; returns the exit status (130 when interrupted)."""
    args = parse_arguments(arguments)
    if args.export_only:
        if args.export is None:
            raise ValueError("[nano] --export-only needs --export, got none")
        _export(args.work_dir, args.export)
        return 0
    prepared = prepare_corpus(
        args.corpus,
        args.work_dir,
        PrepareConfig(
            vocab_size=VOCAB_SIZE,
            keep_by_lang=KEEP_BY_LANG,
            default_keep=DEFAULT_KEEP,
            tokenizer_text_bytes=TOKENIZER_TEXT_BYTES,
            seed=args.seed,
        ),
    )
    config = _config(args, prepared)
    store = RunDirectory(args.work_dir, keep=config.loop.keep_checkpoints)
    with store.held(resume=True), Reporter() as reporter:
        report = run(config, _data(args, config, prepared), World(), reporter)
    if report.stopped:
        return EXIT_INTERRUPTED
    if args.export is not None:
        _export(args.work_dir, args.export)
    return 0


def _config(args: argparse.Namespace, prepared: Prepared) -> TrainConfig:
    return TrainConfig(
        out=args.work_dir,
        seed=args.seed,
        model=MODEL_SECTIONS[args.architecture],
        data=DataSection(
            train=args.corpus,
            valid=[args.valid],
            tokenizer=str(prepared.tokenizer_path),
            seq_len=args.seq_len,
            block_tokens=BLOCK_TOKENS,
        ),
        optim=OptimSection(
            kind="muon", lr=args.vector_lr, matrix_lr=args.matrix_lr, eps=OptimConfig.eps, weight_decay=0.05
        ),
        schedule=ScheduleSection(kind="stable", decay_fraction=args.decay_fraction),
        loop=LoopSection(
            steps=args.steps,
            seconds=None if args.time_budget_min is None else 60.0 * args.time_budget_min,
            batch_tokens=args.blocks_per_step * BLOCK_TOKENS,
            micro_batch_tokens=max(args.seq_len, args.micro_batch_tokens // args.seq_len * args.seq_len),
            precision=args.precision,
            device="cpu",
            threads=args.workers,
            workers=args.workers,
            compile=args.compile,
            eval_windows=args.valid_windows,
            checkpoint_every_s=120.0,
            pause_file=args.pause_file,
        ),
    )


def _data(args: argparse.Namespace, config: TrainConfig, prepared: Prepared) -> TrainData:
    """The corpus of `prepare.py`, which chooses documents by language, in place of all text of some files."""
    valid_path = args.work_dir / "valid.u16"
    if not valid_path.exists():
        documents: list[Document] = list(read_corpus([args.valid]))
        pack_documents(documents, load_tokenizer(prepared.tokenizer_path), path=valid_path)
    windows = spread_windows(open_packed(valid_path), n_windows=config.loop.eval_windows, length=args.seq_len)
    codec = open_codec(str(prepared.tokenizer_path), END_OF_TEXT)
    fingerprint = f"{prepared.n_documents} documents, {prepared.n_tokens} tokens, {prepared.text_bytes} bytes"
    return TrainData(codec, open_packed(prepared.tokens_path), fingerprint, windows)


def _export(work_dir: Path, target: Path) -> None:
    source = work_dir / LAST / MODEL
    if not source.is_dir():
        raise ModelConfigError(
            f"[nano] {work_dir} has no checkpoint to export; train with --steps or --time-budget-min"
        )
    shutil.copytree(source, target, dirs_exist_ok=True)


if __name__ == "__main__":
    sys.exit(main())
