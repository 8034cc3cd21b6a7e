"""The transformers quantizer `c3`: pages a packed model's matrices, and leaves its other tensors to transformers."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer

from vortex_engine.c3.directory import open_directory
from vortex_engine.errors import BackendUnavailableError, ModelConfigError
from vortex_engine.hf.config import C3Config
from vortex_engine.hf.modules import become_experts, become_paged
from vortex_engine.hf.placement import Placement, place
from vortex_engine.hf.store import PagedMatrix, PagedStore
from vortex_engine.hf.sweep import sweep_order

__all__ = ["C3Quantizer", "stats"]

_LOG = logging.getLogger(__name__)
_PACKED_TENSORS = r"\.c3(_index)?$"


class C3Quantizer(HfQuantizer):
    """Turns modules into paged ones; matrices of no known kind of module are decoded, and named by `stats`."""

    def __init__(self, quantization_config: C3Config, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._options = quantization_config
        self._dense: list[Placement] = []
        self._unused: list[str] = []
        self._store: PagedStore | None = None

    @property
    def store(self) -> PagedStore:
        """The paged matrices."""
        assert self._store is not None
        return self._store

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        if not self.pre_quantized:
            raise ModelConfigError(
                "[hf] C3Config needs a packed model; make one with: vortex pack SRC DST, and load DST"
            )
        device_map: Any = kwargs.get("device_map")
        if device_map not in (None, "auto", "cpu", {"": "cpu"}):
            raise BackendUnavailableError(f"[hf] paged matrices are on the CPU, got device_map={device_map!r}; drop it")

    def update_device_map(self, device_map: Any) -> Any:
        return None if device_map is None else {"": "cpu"}

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        files = kwargs.get("checkpoint_files")
        if not files:
            raise ModelConfigError("[hf] a packed model is loaded from its directory, not from a state_dict")
        directory = open_directory(Path(files[0]).parent)
        placements, self._unused = place(model, directory.matrices)
        config = self._options
        routed = any(placement.stacked() is not None for placement in placements)
        policy = config.policy or ("lru" if routed else "stable")
        self._store = PagedStore(directory, config.ram_budget_bytes, config.threads, policy, config.activations)
        try:
            self._page(model, placements)
            self._store.start(sweep_order(model))
        except BaseException:
            self._store.pager.close()
            raise
        lacking = {re.escape(placement.parameter) + "$" for placement in self._dense}
        model._keys_to_ignore_on_load_missing = set(model._keys_to_ignore_on_load_missing or ()) | lacking
        model._keys_to_ignore_on_load_unexpected = {
            *(model._keys_to_ignore_on_load_unexpected or ()),
            _PACKED_TENSORS,
        }
        return model

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            for placement in self._dense:
                values = {name: self.store.dense(name) for name in placement.matrices}
                for parameter, value in placement.values(values, model).items():
                    model.get_parameter(parameter).copy_(value)
        dense_bytes = sum(self._dense_sizes(model).values())
        if dense_bytes:
            _LOG.warning(
                "%s: %d matrices (%d bytes) have no paged module and were decoded into RAM, outside the budget; "
                "vortex_engine.hf.stats(model)['dense_bytes'] names them",
                self.store.directory.path,
                len(self._dense),
                dense_bytes,
            )
        model.c3_pager = self.store.pager
        return model

    def is_serializable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride] - no types in transformers
        return False

    @property
    def is_trainable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride] - as above
        return False

    def stats(self, model: Any) -> dict[str, Any]:
        """What `vortex_engine.hf.stats` returns of the model that this quantizer loaded."""
        return {
            **self.store.pager.counters(),
            "policy": self.store.policy,
            "activations": self.store.activations,
            "dense_bytes": self._dense_sizes(model),
            "unused": list(self._unused),
        }

    def _dense_sizes(self, model: Any) -> dict[str, int]:
        parameters = {placement.parameter: model.get_parameter(placement.parameter) for placement in self._dense}
        return {name: value.numel() * value.element_size() for name, value in parameters.items()}

    def _page(self, model: Any, placements: list[Placement]) -> None:
        """Replace what has a paged kind; the rest goes to `_dense`. Tied parameters share one matrix."""
        experts: dict[str, dict[str, Placement]] = {}
        paged: dict[str, str] = {}  # parameter -> matrix
        for placement in placements:
            owner, _, name = placement.parameter.rpartition(".")
            if placement.stacked() is not None:
                experts.setdefault(owner, {})[name] = placement
            elif placement.converter is None and self._become_paged(model, placement.parameter, placement.matrices[0]):
                paged[placement.parameter] = placement.matrices[0]
            else:
                self._dense.append(placement)
        for owner, parts in experts.items():
            if not self._become_experts(model.get_submodule(owner), parts):
                self._dense.extend(parts.values())
        tied: dict[str, str] = model.all_tied_weights_keys
        for target, source in list(tied.items()):
            if target not in paged and source not in paged:
                continue
            for lacking, other in ((target, source), (source, target)):
                if lacking not in paged and not self._become_paged(model, lacking, paged[other]):
                    raise ModelConfigError(
                        f"[hf] {lacking!r} is tied to the paged {other!r}, but its module is a "
                        f"{type(model.get_submodule(lacking.rpartition('.')[0])).__name__}, which has no paged kind"
                    )
                paged.setdefault(lacking, paged.get(other, ""))
            del tied[target]

    def _become_paged(self, model: Any, parameter: str, matrix: str) -> bool:
        owner, _, name = parameter.rpartition(".")
        module = model.get_submodule(owner)
        return name == "weight" and become_paged(module, self._matrix(matrix, module.weight, parameter))

    def _become_experts(self, module: Any, parts: dict[str, Placement]) -> bool:
        up = parts.get("gate_up_proj", parts.get("up_proj"))
        down = parts.get("down_proj")
        stacks = [part.stacked() for part in (up, down) if part is not None]
        if len(parts) != 2 or len(stacks) != 2 or stacks[0] is None or stacks[1] is None:
            return False
        if {len(stack) for stack in stacks if stack} != {getattr(module, "num_experts", None)}:
            return False
        up, down = (self._experts(part, module) for part in (up, down) if part is not None)
        return become_experts(module, up, [matrices[0] for matrices in down])

    def _experts(self, part: Placement, module: Any) -> list[list[PagedMatrix]]:
        parameter = getattr(module, part.parameter.rpartition(".")[2])
        experts = [[PagedMatrix(self.store, name, parameter.dtype) for name in names] for names in part.stacked() or []]
        for matrices in experts:
            shape = sum(matrix.shape[0] for matrix in matrices), matrices[0].shape[1]
            if shape != tuple(parameter.shape[1:]):
                raise self._misfit(matrices[0].name, shape, part.parameter, parameter.shape[1:])
        return experts

    def _matrix(self, name: str, weight: Any, parameter: str) -> PagedMatrix:
        matrix = PagedMatrix(self.store, name, weight.dtype)
        if matrix.shape != tuple(weight.shape):
            raise self._misfit(name, matrix.shape, parameter, weight.shape)
        return matrix

    def _misfit(self, name: str, found: Sequence[int], parameter: str, wanted: Sequence[int]) -> ModelConfigError:
        return ModelConfigError(
            f"[hf] {self.store.directory.path}: tensor {name!r} has shape {list(found)}, but {parameter!r} of the "
            f"model that config.json describes has {list(wanted)}"
        )


register_quantizer("c3")(C3Quantizer)


def stats(model: Any) -> dict[str, Any]:
    """The pager's counters of a loaded packed model, and what is not paged.

    Returns:
        The counters (`page_faults`, `bytes_compressed_read`, `peak_bytes`, `budget_bytes` …), `policy`, `activations`,
        `dense_bytes` (parameter -> bytes in RAM, for matrices that no paged module stands for) and `unused` (matrices
        of the checkpoint that this model class has no use for).

    Raises:
        ValueError: the model was not loaded from a packed directory.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if not isinstance(quantizer, C3Quantizer):
        raise ValueError("[hf.stats] model must come from from_pretrained on a packed directory")
    return quantizer.stats(model)
