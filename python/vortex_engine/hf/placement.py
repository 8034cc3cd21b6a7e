"""Where each packed matrix belongs in a transformers model, by the key mapping transformers loads checkpoints with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,  # pyright: ignore[reportUnknownVariableType] - a bare dict in its types
)

__all__ = ["Placement", "place"]

# A matrix of a tensor [experts, rows, cols], as the packer names it.
_SLICE = re.compile(r"((?:.+\.)?experts\..+)\.[0-9]+$")


@dataclass
class Placement:
    """The matrices that one parameter is made of: itself, or what a converter merges into it."""

    parameter: str
    converter: Any = None  # of transformers; None: the parameter is the one matrix
    sources: dict[str, list[str]] = field(default_factory=lambda: {})  # the converter's pattern -> tensors, in order
    slices: dict[str, list[str]] = field(default_factory=lambda: {})  # tensor [experts, …] -> its matrices, in order

    @property
    def matrices(self) -> list[str]:
        """All matrices, pattern by pattern."""
        tensors = [name for names in self.sources.values() for name in names]
        return [matrix for name in tensors for matrix in self.slices.get(name, [name])]

    def stacked(self) -> list[list[str]] | None:
        """Matrices of each expert where the parameter stacks them, joined by rows; None for any other conversion."""
        if self.slices:
            return [[name] for name in self.matrices] if self.converter is None else None
        operations: list[object] = self.converter.operations if self.converter else []
        kinds = [type(operation) for operation in operations]
        dims = [getattr(operation, "dim", None) for operation in operations]
        if (kinds, dims) not in (([MergeModulelist], [0]), ([MergeModulelist, Concatenate], [0, 1])):
            return None
        columns = [self.sources.get(pattern, []) for pattern in self.converter.source_patterns]
        if len({len(column) for column in columns}) != 1:
            return None
        return [list(expert) for expert in zip(*columns, strict=True)]

    def values(self, dense: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
        """The parameters that the converter makes of the matrices' values."""
        stacks = {name: torch.stack([dense[part] for part in parts]) for name, parts in self.slices.items()}
        tensors = {**dense, **stacks}
        if self.converter is None:
            ((name,),) = self.sources.values()
            return {self.parameter: tensors[name]}
        converter = deepcopy(self.converter)
        for pattern, names in self.sources.items():
            for name in names:
                converter.add_tensor(self.parameter, name, pattern, tensors[name])
        made: dict[str, Any] = converter.convert(self.parameter, model=model, config=model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


def place(model: Any, names: Iterable[str]) -> tuple[list[Placement], list[str]]:
    """Placements in the order of `names`' numbers, and the names that the model has no use for.

    Args:
        model: as transformers built it, no module replaced yet.
        names: of the checkpoint's matrices.
    """
    transforms = get_model_conversion_mapping(model)
    renamings: Any = [entry for entry in transforms if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in transforms if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    parameters, prefix = model.state_dict(), model.base_model_prefix

    def target(name: str) -> tuple[str, str | None]:
        parameter, pattern = rename_source_key(name, renamings, converters, prefix, parameters)
        if parameter not in parameters and name in parameters:
            return rename_source_key(name, [], [], prefix, parameters)
        return parameter, pattern

    placements: dict[str, Placement] = {}
    unused: list[str] = []
    for name in sorted(names, key=dot_natural_key):
        tensor, (parameter, pattern) = name, target(name)
        part = _SLICE.match(name)
        if parameter not in parameters and part is not None:
            tensor, (parameter, pattern) = part[1], target(part[1])
        if parameter not in parameters:
            unused.append(name)
            continue
        converter = None if pattern is None else by_pattern[pattern]
        placement = placements.setdefault(parameter, Placement(parameter, converter))
        tensors = placement.sources.setdefault(tensor if pattern is None else pattern, [])
        if tensor not in tensors:
            tensors.append(tensor)
        if tensor != name:
            placement.slices.setdefault(tensor, []).append(name)
    return list(placements.values()), unused
