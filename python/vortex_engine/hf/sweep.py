"""The order in which a forward pass reads the paged matrices of a model."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import cache

from torch import nn

from vortex_engine.hf.modules import PagedConv1D, PagedExperts, PagedLinear

__all__ = ["sweep_order"]


def sweep_order(model: nn.Module) -> list[str]:
    """Names of the matrices that products read, each once, in the order of use; embeddings are looked up by rows.

    Where a model's code leaves the order open it is that of the definition: a wrong guess costs prefetches only.
    """
    return list(dict.fromkeys(_matrices(model)))


def _matrices(module: nn.Module) -> Iterator[str]:
    if isinstance(module, (PagedLinear, PagedConv1D)):
        yield module.paged.name
    elif isinstance(module, PagedExperts):
        for up, down in zip(module.paged_up, module.paged_down, strict=True):
            yield from (matrix.name for matrix in (*up, down))
    for child in _children_by_use(module):
        yield from _matrices(child)


def _children_by_use(module: nn.Module) -> list[nn.Module]:
    """The submodules in the order in which `forward` uses them, then those that its own text does not name."""
    names = _attributes_by_use(inspect.unwrap(type(module).forward))
    place = {name: i for i, name in reversed(list(enumerate(names)))}
    children = sorted(module.named_children(), key=lambda child: place.get(child[0], len(names)))
    return [child for _, child in children]


@cache
def _attributes_by_use(function: Callable[..., object]) -> list[str]:
    """Names of `self.NAME` in the order in which a function calls or reads them; none where it has no source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError):
        return []
    return list(_uses(tree))


def _uses(node: ast.AST) -> Iterator[str]:
    # What a call is given is computed before the call.
    parts = [*node.args, *node.keywords, node.func] if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
    for part in parts:
        yield from _uses(part)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        yield node.attr
