"""From a gzip JSONL corpus to packed tokens, and from packed tokens to batches in a fixed order."""

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vortex_engine.train.files import replace_atomically, write_text_atomically
from vortex_engine.train.tokenizer import END_OF_TEXT_ID

_ENCODE_BATCH_DOCUMENTS = 512


@dataclass(frozen=True)
class Document:
    """One file of the corpus."""

    path: str
    lang: str
    repo: str
    text: str


def read_corpus(paths: Sequence[Path]) -> Iterator[Document]:
    """Yield the documents of gzip JSONL files (fields path, lang, repo, text) in file order."""
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                yield Document(path=row["path"], lang=row["lang"], repo=row["repo"], text=row["text"])


def select_documents(
    documents: Iterator[Document], *, keep_by_lang: Mapping[str, float], default_keep: float, seed: int
) -> list[Document]:
    """Keep a fraction of each language and shuffle, both decided by a hash of (seed, repo, path).

    The hash makes the choice independent of the order and number of corpus files read.
    """
    keyed: list[tuple[int, Document]] = []
    for document in documents:
        name = f"{seed}\0{document.repo}\0{document.path}".encode()
        digest = hashlib.blake2b(name, digest_size=16).digest()
        draw = int.from_bytes(digest[:8], "little") / 2**64
        if draw < keep_by_lang.get(document.lang, default_keep):
            keyed.append((int.from_bytes(digest[8:], "little"), document))
    keyed.sort(key=lambda pair: (pair[0], pair[1].repo, pair[1].path))
    return [document for _, document in keyed]


def encode_documents(tokenizer: Tokenizer, texts: Sequence[str]) -> list[NDArray[np.uint16]]:
    """Token ids of each text with the separator in front: [1 + n_tokens] uint16 each."""
    return [
        np.asarray([END_OF_TEXT_ID, *encoding.ids], dtype=np.uint16) for encoding in tokenizer.encode_batch(list(texts))
    ]


def pack_documents(documents: Sequence[Document], tokenizer: Tokenizer, *, path: Path) -> dict[str, int]:
    """Write `<|endoftext|> text <|endoftext|> text …` as little-endian uint16 and return the counts.

    The separator comes first, so every document is predicted from it. `path` with `.json` appended gets the counts.
    """
    if tokenizer.get_vocab_size() > 2**16:
        raise ValueError(f"[pack_documents] token ids must fit uint16, got vocabulary {tokenizer.get_vocab_size()}")
    counts = {"n_documents": len(documents), "n_tokens": 0, "text_bytes": 0}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as out:
            for first in range(0, len(documents), _ENCODE_BATCH_DOCUMENTS):
                texts = [document.text for document in documents[first : first + _ENCODE_BATCH_DOCUMENTS]]
                for text, ids in zip(texts, encode_documents(tokenizer, texts), strict=True):
                    out.write(ids.astype("<u2").tobytes())
                    counts["n_tokens"] += ids.size
                    counts["text_bytes"] += len(text.encode())

    replace_atomically(path, write)
    write_text_atomically(counts_path(path), json.dumps(counts))
    return counts


def counts_path(path: Path) -> Path:
    """Where `pack_documents` leaves the counts of the packed file `path`."""
    return path.with_name(path.name + ".json")


def open_packed(path: Path) -> NDArray[np.uint16]:
    """Map a packed token file: [n_tokens] uint16, read-only."""
    return np.memmap(path, dtype="<u2", mode="r")


class BlockOrder:
    """Batches of token blocks as a pure function of the step, so a resumed run needs no data state.

    The stream is cut into blocks of `block_tokens`; each epoch is a fresh permutation of all blocks drawn from
    (seed, epoch). A sequence length that divides the block only changes the shape of a batch, never its tokens,
    so a run may be resumed with longer sequences. Nothing here knows of processes or micro-batches.
    """

    def __init__(
        self, tokens: NDArray[np.unsignedinteger], *, block_tokens: int, blocks_per_step: int, seed: int
    ) -> None:
        self._tokens = tokens
        self._block_tokens = block_tokens
        self._blocks_per_step = blocks_per_step
        self._seed = seed
        # One token more than the block is read: the target of its last position.
        self._n_blocks = (len(tokens) - 1) // block_tokens
        if self._n_blocks < blocks_per_step:
            raise ValueError(
                f"[BlockOrder] corpus must hold one step of {blocks_per_step} blocks, got {self._n_blocks}"
            )
        self._epoch = -1
        self._permutation: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Steps before the first block repeats."""
        return self._n_blocks // self._blocks_per_step

    def blocks(self, step: int) -> NDArray[np.int64]:
        """Block numbers of `step`: [blocks_per_step] int64."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._permutation = np.random.default_rng((self._seed, epoch)).permutation(self._n_blocks)
            self._epoch = epoch
        start = within * self._blocks_per_step
        return self._permutation[start : start + self._blocks_per_step]

    def rows(self, step: int, *, seq_len: int) -> torch.Tensor:
        """Sequences of `step` with the token after each, [blocks_per_step * block_tokens / seq_len, seq_len + 1]."""
        if self._block_tokens % seq_len != 0:
            raise ValueError(f"[BlockOrder] seq_len must divide the block of {self._block_tokens}, got {seq_len}")
        starts = self.blocks(step)[:, None] * self._block_tokens + np.arange(0, self._block_tokens, seq_len)
        parts = [np.asarray(self._tokens[start : start + seq_len + 1], dtype=np.int64) for start in starts.flatten()]
        return torch.from_numpy(np.stack(parts))
