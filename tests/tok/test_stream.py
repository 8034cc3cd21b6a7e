"""Streamed text equals decoded text, for byte-level and byte-fallback tokenizers, and never splits a character."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from vortex_engine.errors import ModelConfigError
from vortex_engine.tok import load_tokenizer
from vortex_engine.tok.hugging_face import HuggingFaceTokenizer

TEXT = "héllo 😀 wörld\n\n日本語 👩‍👩‍👧 end  two spaces"


def byte_level() -> HuggingFaceTokenizer:
    """Every byte is a token; ids 0..255 in the order of the alphabet, then two merges and two added tokens."""
    vocab = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab |= {"Ġw": 256, "ld": 257}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[("Ġ", "w"), ("l", "d")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<|end|>"])
    inner.add_tokens(["日本"])
    return HuggingFaceTokenizer(inner.to_str(), "byte level")


def byte_fallback() -> HuggingFaceTokenizer:
    """The llama 2 arrangement: ▁ for spaces, unknown characters as byte tokens, one leading space stripped."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": byte + 3 for byte in range(256)}
    for symbol in "▁abcdefghijklmnopqrstuvwxyz":
        vocab[symbol] = len(vocab)
    vocab["▁w"] = len(vocab)
    inner = Tokenizer(
        models.BPE(vocab=vocab, merges=[("▁", "w")], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens(["<s>", "</s>"])
    return HuggingFaceTokenizer(inner.to_str(), "byte fallback")


def word_pieces() -> HuggingFaceTokenizer:
    vocab = {word: i for i, word in enumerate(["[UNK]", "a", "##b", "c", "##d", ",", "'"])}
    inner = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    inner.decoder = decoders.WordPiece()
    return HuggingFaceTokenizer(inner.to_str(), "word pieces")


TOKENIZERS = {"byte_level": byte_level, "byte_fallback": byte_fallback, "word_pieces": word_pieces}


def streamed(tokenizer: HuggingFaceTokenizer, ids: list[int], prompt: list[int] | None = None) -> list[str]:
    stream = tokenizer.stream(prompt or [])
    pieces = [stream.push(token_id) for token_id in ids]
    held = stream.held()
    pieces.append(stream.finish())
    assert pieces[-1] == held
    return pieces


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_pieces_join_to_the_decoded_text_for_any_ids(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    random = np.random.default_rng(5)
    for length in [0, 1, 2, 3, 5, 9, 40] * 40:
        ids = random.integers(0, 300, length).tolist()  # ids past the vocabulary too: they have no text
        assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_no_piece_splits_a_character(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    ids = tokenizer.encode(TEXT)
    assert len(ids) > len(TEXT)  # the emoji are several tokens each
    pieces = streamed(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids) == TEXT
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_the_rest_of_a_broken_character_is_flushed_as_decode_reads_it(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    ids = tokenizer.encode("ab😀")[:-1]
    pieces = streamed(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    assert pieces[-1].strip("\ufffd") == ""
    assert len(pieces[-1]) > 0


def test_text_continues_the_prompt_with_its_space_and_its_newline() -> None:
    tokenizer = byte_fallback()
    prompt = tokenizer.encode("abc\n")
    assert prompt[-1] == ord("\n") + 3
    follow = tokenizer.encode("wa")
    assert "".join(streamed(tokenizer, follow, prompt)) == " wa"
    assert "".join(streamed(tokenizer, follow, [])) == "wa"


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_a_character_begun_in_the_prompt_is_completed(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    ids = tokenizer.encode("a😀b")
    cut = len(ids) - 3  # two of the emoji's bytes and the b come after the prompt
    assert "".join(streamed(tokenizer, ids[cut:], ids[:cut])) == "😀b"


def test_special_tokens_have_no_text_and_do_not_hide_a_space() -> None:
    tokenizer = byte_fallback()
    ids = [*tokenizer.encode("ab"), 2, *tokenizer.encode("wa"), 1]
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids) == "ab wa"


@pytest.mark.parametrize("name", ["gpt2", "llama2", "llama3", "qwen2.5"])
def test_real_tokenizers(shared_dir: Path, name: str) -> None:
    tokenizer = load_tokenizer(shared_dir / "data" / "tokenizers" / name)
    random = np.random.default_rng(1)
    cases = [tokenizer.encode(TEXT), *(random.integers(0, 32100, 12).tolist() for _ in range(200))]
    for ids in cases:
        stream = tokenizer.stream()
        assert "".join([*map(stream.push, ids), stream.finish()]) == tokenizer.decode(ids)


def test_a_missing_or_broken_tokenizer_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(ModelConfigError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    for content in (b"", b"{}", b"\xff\xfe", b'{"model": 3}', b"[1, 2"):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(ModelConfigError, match=r"tokenizer\.json"):
            load_tokenizer(tmp_path)


def test_a_saved_truncation_does_not_cut_prompts() -> None:
    inner = Tokenizer.from_str(byte_level()._inner.to_str())
    inner.enable_truncation(2)
    assert len(HuggingFaceTokenizer(inner.to_str(), "truncating").encode("abcdefgh")) == 8
