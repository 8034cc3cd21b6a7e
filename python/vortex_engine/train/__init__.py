"""Training: one loop for every kind of model, on one process or several."""

from __future__ import annotations

from importlib.util import find_spec

from vortex_engine.errors import BackendUnavailableError

# Before the imports of the modules below this one, which would fail with less of an answer.
if find_spec("torch") is None:
    raise BackendUnavailableError("[train] training needs torch: pip install 'vortex-engine[train]'")
