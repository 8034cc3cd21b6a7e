"""A Hugging Face `tokenizer.json` through the `tokenizers` package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vortex_engine.errors import ModelConfigError
from vortex_engine.tok.protocol import TextStream
from vortex_engine.tok.stream import ByteTextStream, WindowTextStream

__all__ = ["HuggingFaceTokenizer", "load_tokenizer"]


def load_tokenizer(folder: Path) -> HuggingFaceTokenizer:
    """The tokenizer of a model directory.

    Raises:
        ModelConfigError: there is no tokenizer.json, or it cannot be read as one.
    """
    path = folder / "tokenizer.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ModelConfigError(
            f"{folder}: no tokenizer.json; save the model with its fast tokenizer "
            "(AutoTokenizer.from_pretrained(SRC).save_pretrained(DST)) and pack it again"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelConfigError(f"{path}: cannot be read: {error}") from error
    return HuggingFaceTokenizer(text, str(path))


class HuggingFaceTokenizer:
    """One `tokenizers.Tokenizer`; `source` names it in errors."""

    def __init__(self, text: str, source: str) -> None:
        import tokenizers

        try:
            inner = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the package raises nothing narrower
            raise ModelConfigError(f"{source}: not a tokenizer the tokenizers package can read: {error}") from error
        # A saved truncation would cut prompts in silence.
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        added = inner.get_added_tokens_decoder()
        self._special = frozenset(token_id for token_id, token in added.items() if token.special)
        kinds = _decoder_kinds(inner)
        self._byte_level = kinds == {"ByteLevel"}
        self._byte_ids: dict[int, bytes] = _byte_fallback_ids(inner) if "ByteFallback" in kinds else {}
        self._byte_of = _byte_level_alphabet() if self._byte_level else {}

    def encode(self, text: str) -> list[int]:
        return self._inner.encode(text, add_special_tokens=True).ids

    @property
    def vocab_size(self) -> int:
        """The largest id and one."""
        return max(self._inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, without the special tokens that `encode` adds, on all cores."""
        return [encoding.ids for encoding in self._inner.encode_batch(list(texts), add_special_tokens=False)]

    def encode_ordinary(self, text: str) -> list[int]:
        return self._inner.encode(text, add_special_tokens=False).ids

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._inner.decode(list(token_ids), skip_special_tokens=True)

    def stream(self, prompt_ids: Sequence[int] = ()) -> TextStream:
        if self._byte_level:
            return ByteTextStream(self.token_bytes, prompt_ids)
        return WindowTextStream(self.decode, self._has_text, self._byte_ids.__contains__, prompt_ids)

    def _has_text(self, token_id: int) -> bool:
        return token_id not in self._special and bool(self._inner.id_to_token(token_id))

    def token_bytes(self, token_id: int) -> bytes:
        token = self._inner.id_to_token(token_id)
        if not token or token_id in self._special:
            return b""
        if token_id in self._byte_ids:
            return self._byte_ids[token_id]
        if not self._byte_level:
            # Decoders treat the start of a text in their own ways, so the id is read after itself.
            once, twice = self.decode([token_id]), self.decode([token_id, token_id])
            return (twice[len(once) :] if twice.startswith(once) else token).encode()
        try:
            return bytes([self._byte_of[character] for character in token])
        except KeyError:
            return token.encode()  # an added token outside the byte alphabet stands for itself


def _decoder_kinds(inner: Any) -> set[str]:
    decoder = inner.decoder
    if decoder is None:
        return set()
    state = json.loads(decoder.__getstate__())
    parts = state["decoders"] if state.get("type") == "Sequence" else [state]
    return {part["type"] for part in parts}


def _byte_fallback_ids(inner: Any) -> dict[int, bytes]:
    found = ((inner.token_to_id(f"<0x{byte:02X}>"), bytes([byte])) for byte in range(256))
    return {token_id: byte for token_id, byte in found if token_id is not None}


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable character for every byte: itself where it prints, else the next one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if chr(byte) not in alphabet)
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(list(others))}
