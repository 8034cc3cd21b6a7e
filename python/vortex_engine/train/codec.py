"""The tokenizer of a run: bytes, or a tokenizer.json, with a separator in front of every document."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vortex_engine.errors import ModelConfigError
from vortex_engine.tok.hugging_face import HuggingFaceTokenizer
from vortex_engine.train.config import suggestion
from vortex_engine.train.tokenizer import SPECIAL_TOKENS, train_tokenizer

__all__ = ["TextCodec", "open_codec"]


class TextCodec:
    """Text to token ids for training.

    Args:
        json_text: a tokenizer.json.
        end_of_text: its token that separates documents.
        source: names the tokenizer in errors.

    Attributes:
        dtype: uint16 where all ids fit it, else uint32.
        fingerprint: SHA-256 of the tokenizer and the separator, hexadecimal.
    """

    def __init__(self, json_text: str, end_of_text: str, source: str) -> None:
        self.json_text = json_text
        self.end_of_text = end_of_text
        self._inner = HuggingFaceTokenizer(json_text, source)
        plain = Tokenizer.from_str(json_text)
        found = plain.token_to_id(end_of_text)
        if found is None:
            special = [token.content for token in plain.get_added_tokens_decoder().values()]
            raise ModelConfigError(
                f"[train] {source} has no token {end_of_text!r} to separate documents; set data.end_of_text: "
                + suggestion(end_of_text, special or ["a token of its vocabulary"])
            )
        self.end_of_text_id = int(found)
        self.vocab_size = self._inner.vocab_size
        self.dtype = np.dtype("<u2" if self.vocab_size <= 2**16 else "<u4")
        self.fingerprint = hashlib.sha256(f"{end_of_text}\0{json_text}".encode()).hexdigest()
        # Without merges a text is its bytes, which one table translates far faster than the general tokenizer.
        self._table = self._byte_table() if not json.loads(json_text)["model"].get("merges", True) else None

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger]]:
        """Ids of each text, without separators."""
        if self._table is not None and not any(special in text for text in texts for special in SPECIAL_TOKENS):
            return [self._table[np.frombuffer(text.encode(), dtype=np.uint8)] for text in texts]
        return [np.asarray(ids, dtype=self.dtype) for ids in self._inner.encode_texts(texts)]

    def byte_lengths(self) -> NDArray[np.int64]:
        """Bytes of text that each id stands for, [vocab_size]; 0 for special tokens."""
        return np.array([len(self._inner.token_bytes(i)) for i in range(self.vocab_size)], dtype=np.int64)

    def _byte_table(self) -> NDArray[np.unsignedinteger] | None:
        ids = {self._inner.token_bytes(i): i for i in range(self.vocab_size)}
        if any(bytes([byte]) not in ids for byte in range(256)):
            return None
        return np.array([ids[bytes([byte])] for byte in range(256)], dtype=self.dtype)


def open_codec(name: str, end_of_text: str) -> TextCodec:
    """The codec of a configuration: `bytes`, or a tokenizer.json or a directory that has one.

    Raises:
        ModelConfigError: no such file, not a tokenizer, or one without the separator.
    """
    if name == "bytes":
        vocab_size = 256 + len(SPECIAL_TOKENS)
        return TextCodec(train_tokenizer([], vocab_size=vocab_size).to_str(), end_of_text, "the tokenizer of bytes")
    path = Path(name)
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelConfigError(
            f"[train] data.tokenizer {path} cannot be read: {error}; give `bytes` or a tokenizer.json"
        ) from error
    return TextCodec(text, end_of_text, str(path))
