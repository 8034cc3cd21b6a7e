"""JSON documents of unknown shape, narrowed step by step."""

from __future__ import annotations

from typing import cast


def as_object(value: object) -> dict[str, object] | None:
    """`value` if it is a JSON object, whose keys are always strings."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else None


def as_count(value: object) -> int | None:
    """`value` if it is an integer that can count bytes; neither true nor 1.0 is one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63 else None


def as_counts(value: object) -> list[int] | None:
    """`value` if it is a list of counts."""
    if not isinstance(value, list):
        return None
    counts = [count for item in cast("list[object]", value) if (count := as_count(item)) is not None]
    return counts if len(counts) == len(cast("list[object]", value)) else None
