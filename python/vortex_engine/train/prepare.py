"""Corpus to work directory: the tokenizer and the packed tokens, made once and reused."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from vortex_engine.train.data import counts_path, pack_documents, read_corpus, select_documents
from vortex_engine.train.files import write_text_atomically
from vortex_engine.train.tokenizer import train_tokenizer


@dataclass(frozen=True)
class PrepareConfig:
    """What goes into the packed corpus."""

    vocab_size: int
    keep_by_lang: Mapping[str, float]
    default_keep: float
    tokenizer_text_bytes: int
    seed: int


@dataclass(frozen=True)
class Prepared:
    """The files and counts of a prepared corpus."""

    tokenizer_path: Path
    tokens_path: Path
    n_documents: int
    n_tokens: int
    text_bytes: int


def prepare_corpus(corpus: Sequence[Path], work_dir: Path, config: PrepareConfig) -> Prepared:
    """Train the tokenizer and pack the corpus into `work_dir`, unless they are there already.

    The tokenizer sees the first `tokenizer_text_bytes` bytes of the shuffled selection. The token file carries its
    counts beside it and is written last, so its presence means the work is complete.
    """
    tokenizer_path = work_dir / "tokenizer.json"
    tokens_path = work_dir / "tokens.u16"
    if not counts_path(tokens_path).exists():
        work_dir.mkdir(parents=True, exist_ok=True)
        documents = select_documents(
            read_corpus(corpus), keep_by_lang=config.keep_by_lang, default_keep=config.default_keep, seed=config.seed
        )
        texts: list[str] = []
        sampled_bytes = 0
        for document in documents:
            if sampled_bytes >= config.tokenizer_text_bytes:
                break
            texts.append(document.text)
            sampled_bytes += len(document.text.encode())
        tokenizer = train_tokenizer(texts, vocab_size=config.vocab_size)
        write_text_atomically(tokenizer_path, tokenizer.to_str())
        pack_documents(documents, tokenizer, path=tokens_path)
    counts = json.loads(counts_path(tokens_path).read_text(encoding="utf-8"))
    return Prepared(tokenizer_path=tokenizer_path, tokens_path=tokens_path, **counts)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`."""
    return Tokenizer.from_file(str(path))
