"""Tokenizers behind one protocol, streaming detokenisers and the search for stop strings."""

from __future__ import annotations

from vortex_engine.tok.hugging_face import load_tokenizer
from vortex_engine.tok.protocol import TextStream, Tokenizer
from vortex_engine.tok.stop import StopSearch

__all__ = ["StopSearch", "TextStream", "Tokenizer", "load_tokenizer"]
