"""Byte-level BPE for source code, trained with the `tokenizers` package."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
END_OF_TEXT_ID = 0

# The first alternative keeps a whole indentation as one piece, and a line break never swallows what follows it:
# a prompt that stops after ":" or after "\n" or after the indentation is cut where training text was cut.
SPLIT_PATTERN = (
    r"(?<=\n)[ \t]+"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"| ?\p{N}"
    r"| ?[^\s\p{L}\p{N}]+"
    r"|[\r\n]+"
    r"|[^\S\r\n]+(?!\S)"
    r"|\s"
)


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Train a lossless byte-level BPE tokenizer.

    Args:
        texts: training documents; the same documents in the same order give the same tokenizer.
        vocab_size: tokens, the 256 bytes and the special tokens included.

    Returns:
        A tokenizer whose special tokens have the ids 0 to 3 (`SPECIAL_TOKENS` in order).
    """
    if vocab_size < 256 + len(SPECIAL_TOKENS):
        raise ValueError(f"[train_tokenizer] vocab_size must hold the bytes and special tokens, got {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return tokenizer
