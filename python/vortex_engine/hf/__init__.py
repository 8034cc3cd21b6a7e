"""Packed models in transformers: after `import vortex_engine.hf`, `from_pretrained("model.c3")` works.

It does for any architecture that transformers has. Weights stay compressed and paged under a hard byte budget
(`C3Config(ram_budget=...)`); transformers does the rest.
"""

from __future__ import annotations

from importlib.util import find_spec

from vortex_engine.errors import BackendUnavailableError

# Before the imports below, which would fail with less of an answer.
if _missing := [name for name in ("torch", "transformers") if find_spec(name) is None]:
    raise BackendUnavailableError(f'vortex_engine.hf needs {" and ".join(_missing)}: pip install "vortex-engine[hf]"')

from vortex_engine.hf.config import C3Config
from vortex_engine.hf.modules import PagedConv1D, PagedEmbedding, PagedExperts, PagedLinear
from vortex_engine.hf.quantizer import C3Quantizer, stats

__all__ = [
    "C3Config",
    "C3Quantizer",
    "PagedConv1D",
    "PagedEmbedding",
    "PagedExperts",
    "PagedLinear",
    "stats",
]
