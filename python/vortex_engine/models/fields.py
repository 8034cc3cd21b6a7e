"""Typed reading of one `config.json`: every complaint names the key and its value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

from vortex_engine.errors import ModelConfigError

__all__ = ["Fields", "shown"]


def shown(value: Any) -> str:
    """A value for an error message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "..."


@dataclass(frozen=True)
class Fields:
    """The keys of a configuration, or of an object inside it that `prefix` names."""

    config: dict[str, Any]
    prefix: str = ""

    def error(self, key: str, rule: str, *, computed: bool = False) -> ModelConfigError:
        """The exception for a key that breaks a rule; `computed` when the rule's text already holds the value."""
        value = "" if computed else f" = {shown(self.config.get(key))}"
        return ModelConfigError(f"config.json: {self.prefix}{key}{value} {rule}")

    def integer(self, key: str, low: int, high: int, *, missing: int | None = None, null: int | None = None) -> int:
        """An int in low..high; null counts as `null`, an absent key as `missing` or else as `null`."""
        value = self.config.get(key)
        if value is None:
            default = null if key in self.config or missing is None else missing
            if default is None:
                raise self.error(key, f"must be an integer between {low} and {high}")
            if default > high:
                raise self.error(key, f"is missing and its default {default} is above {high}", computed=True)
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(key, f"must be an integer between {low} and {high}")
        return value

    def number(self, key: str, low: float, high: float, *, missing: float | None = None) -> float:
        """A finite number with low < value < high."""
        value = self.config.get(key)
        if value is None and missing is not None:
            return missing
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(key, "must be a number")
        if not math.isfinite(value) or not low < value < high:
            raise self.error(key, f"must lie between {low:g} and {high:g}")
        return float(value)

    def boolean(self, key: str) -> bool:
        """True, False, or absent for False."""
        value = self.config.get(key)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def object(self, key: str) -> dict[str, Any]:
        """An object, or absent for an empty one."""
        value = self.config.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(key, "must be an object")
        return cast("dict[str, Any]", value)
