"""escape_restrict: whatever the logits, the bytes of the output are valid UTF-8, drafted or not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from vortex_engine import ops
from vortex_engine.decode.constraints import Utf8Constraint
from vortex_engine.decode.sampler import Sampler
from vortex_engine.decode.sampling import SamplingParams
from vortex_engine.errors import VortexError
from vortex_engine.tok.hugging_face import HuggingFaceTokenizer

CTX = ops.make_context(threads=1)
EXTRA = 3  # logits past the tokenizer's ids


def byte_level() -> HuggingFaceTokenizer:
    """Every byte, and tokens of several: a whole character, the end of one with a letter, the middle of one."""
    symbol = {byte: text for text in pre_tokenizers.ByteLevel.alphabet() for byte in [_byte_of(text)]}
    pieces = [bytes([byte]) for byte in range(256)]
    pieces += [b" the", "é".encode(), b"\x98\x80x", b"\x9f\x98", b"\xa0\xb2\xe6", b"\xc3(", b"a\xf0"]
    vocab = {"".join(symbol[byte] for byte in piece): i for i, piece in enumerate(pieces)}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<|end|>"])
    inner.add_tokens(["日本"])
    return HuggingFaceTokenizer(inner.to_str(), "byte level")


def _byte_of(symbol: str) -> int:
    code = ord(symbol)
    if code < 0x100:
        return code
    return [b for b in range(256) if not (0x21 <= b <= 0x7E or 0xA1 <= b <= 0xAC or b >= 0xAE)][code - 0x100]


def byte_fallback() -> HuggingFaceTokenizer:
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": byte + 3 for byte in range(256)}
    for symbol in ["▁", "a", "▁the", "é", "日本", "😀"]:
        vocab[symbol] = len(vocab)
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens(["<s>", "</s>"])
    return HuggingFaceTokenizer(inner.to_str(), "byte fallback")


TOKENIZERS = {"byte_level": byte_level, "byte_fallback": byte_fallback}
VOCAB = {"byte_level": 265 + EXTRA, "byte_fallback": 265 + EXTRA}


ENDINGS = [bytes(end) for n in range(4) for end in itertools.product((0x80, 0x90, 0xA0, 0xBF), repeat=n)]


def is_beginning_of_utf8(data: bytes) -> bool:
    """Whether some ending makes it valid; Python's own incremental decoder lets surrogates begin."""
    return any(is_utf8(data + end) for end in ENDINGS)


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_bytes_of_tokens() -> None:
    level, fallback = byte_level(), byte_fallback()
    assert [level.token_bytes(i) for i in (0, 0x80, 255, 256, 259)] == [b"\0", b"\x80", b"\xff", b" the", b"\x9f\x98"]
    assert [level.token_bytes(i) for i in (263, 264, 265, 400)] == [b"", "日本".encode(), b"", b""]
    assert [fallback.token_bytes(i) for i in (1, 2, 3, 258, 400)] == [b"", b"", b"\0", b"\xff", b""]
    assert [fallback.token_bytes(i).decode() for i in range(259, 265)] == [" ", "a", " the", "é", "日本", "😀"]


def test_every_short_sequence_of_bytes_is_judged_as_python_judges_it() -> None:
    constraint = Utf8Constraint(lambda token_id: bytes([token_id]) if token_id < 256 else b"", 257)
    edges = [0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF3, 0xF4, 0xF5]
    for data in itertools.chain(*(itertools.product(edges, repeat=n) for n in (1, 2, 3))):
        state, good = constraint.start([]), True
        for byte in data:
            mask = constraint.allowed(state)
            good = good and mask is not None and bool(mask[byte])
            state = constraint.after(state, byte)
        assert good == is_beginning_of_utf8(bytes(data)), bytes(data).hex()
        if good:
            mask = constraint.allowed(state)
            assert (mask is None or mask[256]) == is_utf8(bytes(data))


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_random_logits_give_valid_text_drafted_and_plain(kind: str, temperature: float) -> None:
    tokenizer, vocab = TOKENIZERS[kind](), VOCAB[kind]
    constraint = Utf8Constraint(tokenizer.token_bytes, vocab)
    eos = next(i for i in range(vocab) if tokenizer.token_bytes(i) == b"")
    rng = np.random.default_rng(3)
    n_invalid_without = n_drafted = 0
    for block in range(1, 17):
        table = rng.normal(0, 2, (2, vocab, vocab)).astype(np.float32)

        def logits(ids: list[int], table: np.ndarray = table) -> np.ndarray:
            return table[0, ids[-1]] + table[1, ids[-2]] + table[0, len(ids) % vocab]

        prompt = [65, 66]
        params = SamplingParams(temperature, seed=block, no_repeat_ngram=6)
        texts: list[list[int]] = []
        for chosen in (constraint, None):
            sampler, ids = Sampler(CTX, params, prompt, vocab, chosen), list(prompt)
            while len(ids) < 60:
                token_id = sampler.verify([], logits(ids)[None])[1]
                sampler.push([token_id])
                ids.append(token_id)
            texts.append(ids[2:])
        plain, free = texts
        data = b"".join(map(tokenizer.token_bytes, plain))
        assert is_beginning_of_utf8(data)
        for end, token_id in enumerate(plain):
            if token_id == eos:
                assert is_utf8(b"".join(map(tokenizer.token_bytes, plain[:end])))
        whole = next(n for n in range(len(plain), 0, -1) if is_utf8(b"".join(map(tokenizer.token_bytes, plain[:n]))))
        assert "\ufffd" not in tokenizer.decode(plain[:whole])
        n_invalid_without += not is_beginning_of_utf8(b"".join(map(tokenizer.token_bytes, free)))

        sampler, ids = Sampler(CTX, params, prompt, vocab, constraint), list(prompt)
        while len(ids) < 60:
            n_right = int(rng.integers(block + 1))
            draft = plain[len(ids) - 2 : len(ids) - 2 + n_right]
            draft += rng.integers(0, vocab, block - len(draft)).tolist()
            rows = np.stack([logits(ids + draft[:i]) for i in range(block + 1)])
            n_accepted, token_id = sampler.verify(draft, rows)
            sampler.push([*draft[:n_accepted], token_id])
            ids += [*draft[:n_accepted], token_id]
            n_drafted += n_accepted
        assert ids[2:60] == plain
    assert n_invalid_without > 8 and n_drafted > 200


def test_a_character_of_the_prompt_is_finished_first() -> None:
    tokenizer = byte_level()
    constraint = Utf8Constraint(tokenizer.token_bytes, 268)
    for prompt, following in (([0x41, 0xF0], 0x9F), ([0xF0, 0x9F], 0x98), ([0xF0, 0x9F, 0x98], 0x80), ([0xC3], 0xA9)):
        sampler = Sampler(CTX, SamplingParams(), prompt, 268, constraint)
        row = np.zeros(268, np.float32)
        row[following], row[0x41] = 1.0, 2.0
        assert sampler.verify([], row[None]) == (0, following)
    # Bytes that no character begins with are not waited for.
    for prompt in ([0x80], [0xC0], [0xF0, 0x28], [0xE0, 0x80], [263]):
        sampler = Sampler(CTX, SamplingParams(), prompt, 268, constraint)
        assert sampler.verify([], np.eye(1, 268, 0x41, dtype=np.float32)) == (0, 0x41)


def test_a_vocabulary_that_cannot_finish_a_character_does_not_begin_it() -> None:
    pieces = [b"a", b"\xc3", b"\xe6", b"\x97", b"\xf0\x9f"]
    constraint = Utf8Constraint(lambda token_id: pieces[token_id], 5)
    mask = constraint.allowed(constraint.start([]))
    assert mask is not None and mask.tolist() == [True, True, True, False, True]
    constraint = Utf8Constraint(lambda token_id: pieces[token_id].replace(b"\x97", b"b"), 5)
    mask = constraint.allowed(constraint.start([]))
    assert mask is not None and mask.tolist() == [True, False, False, True, False]


def test_whole_characters_need_no_mask() -> None:
    constraint = Utf8Constraint(lambda token_id: chr(0x3B1 + token_id).encode(), 5)
    assert constraint.allowed(constraint.start([0])) is None
    row = np.arange(5, dtype=np.float32)
    sampler = Sampler(CTX, SamplingParams(), [0], 5, constraint)
    assert sampler.verify([4, 4], np.stack([row] * 3)) == (2, 4)


def test_logits_that_leave_nothing_allowed_name_the_constraint() -> None:
    constraint = Utf8Constraint(lambda token_id: bytes([token_id]), 256)
    sampler = Sampler(CTX, SamplingParams(), [0x41], 256, constraint)
    row = np.full((1, 256), -np.inf, np.float32)
    row[0, 0x80] = 0.0
    with pytest.raises(VortexError, match="escape_restrict forbids every id at position 1 that the logits allow"):
        sampler.verify([], row)
    assert sampler.draft(row[0], [0xC3]) == (0x80, 1.0)
    assert sampler.draft(row[0], [0x80])[1] < 1e-300
