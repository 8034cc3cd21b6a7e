"""@grams: exact counts of the n-grams of a corpus, in a file and in memory."""

from __future__ import annotations

from vortex_engine.grams.build import BuildReport, CorpusTokenizer, build_grams
from vortex_engine.grams.table import GramTable, check_tokenizer, tokenizer_sha256

__all__ = ["BuildReport", "CorpusTokenizer", "GramTable", "build_grams", "check_tokenizer", "tokenizer_sha256"]
