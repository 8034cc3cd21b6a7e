"""Where each packed matrix belongs in a transformers model, by the key mapping transformers loads checkpoints with."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

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


@dataclass
class Placement:
    """The matrices that one parameter is made of: itself, or what a converter merges into it."""

    parameter: str
    converter: Any = None  # of transformers; None: the parameter is the one matrix
    sources: dict[str, list[str]] = field(default_factory=lambda: {})  # the converter's pattern -> matrices, in order

    @property
    def matrices(self) -> list[str]:
        """All matrices, pattern by pattern."""
        return [name for names in self.sources.values() for name in names]

    def stacked(self) -> list[list[str]] | None:
        """Matrices of each expert where the parameter stacks them, joined by rows; None for any other conversion."""
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
        if self.converter is None:
            return {self.parameter: dense[self.matrices[0]]}
        converter = deepcopy(self.converter)
        for pattern, names in self.sources.items():
            for name in names:
                converter.add_tensor(self.parameter, name, pattern, dense[name])
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

    placements: dict[str, Placement] = {}
    unused: list[str] = []
    for name in sorted(names, key=dot_natural_key):
        parameter, pattern = rename_source_key(name, renamings, converters, prefix, parameters)
        if parameter not in parameters and name in parameters:
            parameter, pattern = rename_source_key(name, [], [], prefix, parameters)
        if parameter not in parameters:
            unused.append(name)
            continue
        converter = None if pattern is None else by_pattern[pattern]
        placement = placements.setdefault(parameter, Placement(parameter, converter))
        placement.sources.setdefault(name if pattern is None else pattern, []).append(name)
    return list(placements.values()), unused
