"""What a model has to beat: n-grams trained on the same text, and general compressors, in bits per byte.

`python -m vortex_engine.train.baselines --tokenizer tokenizer.json --train-tokens tokens.u16 --valid valid.jsonl.gz
--json baselines.json`
"""

import argparse
import gzip
import json
import lzma
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vortex_engine.train.bits import token_byte_lengths
from vortex_engine.train.data import encode_documents, open_packed, read_corpus
from vortex_engine.train.files import write_text_atomically
from vortex_engine.train.ngram import KneserNeyNgram
from vortex_engine.train.prepare import load_tokenizer
from vortex_engine.train.tokenizer import END_OF_TEXT_ID

NGRAM_ORDER = 5
_DECODE_PIECE = 1 << 20
# Text holds no zero byte, so one can stand between documents of a byte stream.
_BYTE_SEPARATOR = b"\0"


def baseline_bits_per_byte(
    tokenizer: Tokenizer, train_tokens: NDArray[np.uint16], texts: Sequence[str]
) -> dict[str, float]:
    """Bits per byte of `texts` under each baseline.

    The n-grams read one stream with a separator before each document and are not charged for separators. The
    compressors get the concatenated texts.
    """
    whole = "".join(texts).encode()
    n_bytes = len(whole)
    figures = {
        "gzip_9": len(gzip.compress(whole, 9)) * 8 / n_bytes,
        "xz_9e": len(lzma.compress(whole, preset=9 | lzma.PRESET_EXTREME)) * 8 / n_bytes,
    }
    stream = np.concatenate(encode_documents(tokenizer, texts))
    token_ngram = KneserNeyNgram(train_tokens, n_symbols=tokenizer.get_vocab_size(), order=NGRAM_ORDER)
    figures["token_5gram_kneser_ney"] = float(token_ngram.bits(stream)[stream != END_OF_TEXT_ID].sum()) / n_bytes
    # The tables of the first model are gigabytes and no longer needed.
    del token_ngram
    symbols = byte_stream(stream, tokenizer)
    byte_ngram = KneserNeyNgram(byte_stream(train_tokens, tokenizer), n_symbols=256, order=NGRAM_ORDER)
    figures["byte_5gram_kneser_ney"] = float(byte_ngram.bits(symbols)[symbols != 0].sum()) / n_bytes
    return figures


def byte_stream(tokens: NDArray[np.uint16], tokenizer: Tokenizer) -> NDArray[np.uint8]:
    """The bytes behind a token stream, a zero byte for each separator: [n_bytes] uint8."""
    table = token_bytes_table(tokenizer)
    pieces = [
        b"".join(map(table.__getitem__, tokens[start : start + _DECODE_PIECE]))
        for start in range(0, len(tokens), _DECODE_PIECE)
    ]
    return np.frombuffer(b"".join(pieces), dtype=np.uint8)


def token_bytes_table(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes each token id of a byte-level tokenizer stands for; a special token's are one zero byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    byte_of = {chr(value): value for value in printable}
    # Bytes without a printable character are written as the characters from 256 on, in order (the GPT-2 alphabet).
    others = [value for value in range(256) if value not in set(printable)]
    byte_of |= {chr(256 + place): value for place, value in enumerate(others)}
    lengths = token_byte_lengths(tokenizer)
    table = [_BYTE_SEPARATOR] * len(lengths)
    for token, index in tokenizer.get_vocab().items():
        if lengths[index] > 0:
            table[index] = bytes(byte_of[character] for character in token)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute the figures and write them as JSON, for `vortex_engine.train.evaluate --baselines`."""
    parser = argparse.ArgumentParser(prog="python -m vortex_engine.train.baselines", description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json the tokens were made with")
    parser.add_argument("--train-tokens", type=Path, required=True, help="packed training tokens")
    parser.add_argument("--valid", type=Path, required=True, help="gzip JSONL file of validation text")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    args = parser.parse_args(arguments)
    train_tokens = open_packed(args.train_tokens)
    texts = [document.text for document in read_corpus([args.valid])]
    figures = baseline_bits_per_byte(load_tokenizer(args.tokenizer), train_tokens, texts)
    report = {"train_tokens": len(train_tokens), "text": args.valid.name, "bits_per_byte": figures}
    write_text_atomically(args.json, json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
