"""The law a token is drawn from: what `bad_verify` takes, checked where it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

__all__ = ["MAX_SEED", "SamplingLaw", "check_integer", "check_number"]

MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class SamplingLaw:
    """Temperature, then top-k, top-p and min-p in this order, then one draw; None is off.

    Attributes:
        temperature: from 0; 0 takes the lowest id of the largest logit, and the filters have nothing to do.
        top_k: keep the k largest logits, at least 1.
        top_p: in (0, 1], keep the smallest set of most likely ids that holds this much of what top-k left.
        min_p: in [0, 1], keep ids with at least this fraction of the largest probability.

    Raises:
        ValueError: a number outside of its range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, 0.0, math.inf, low_allowed=True)
        if self.top_k is not None:
            check_integer("top_k", self.top_k, 1, 2**31 - 1)
        if self.top_p is not None:
            check_number("top_p", self.top_p, 0.0, 1.0, high_allowed=True)
        if self.min_p is not None:
            check_number("min_p", self.min_p, 0.0, 1.0, low_allowed=True, high_allowed=True)


def check_number(
    name: str, value: object, low: float, high: float, *, low_allowed: bool = False, high_allowed: bool = False
) -> None:
    """A ValueError unless `value` is a number between the bounds."""
    if low == -math.inf:
        rule = f"{name} must be a finite number"
    else:
        rule = f"{name} must be a number {'from' if low_allowed else 'above'} {low:g}"
        if high < math.inf:
            rule += f" {'up to' if high_allowed else 'and below'} {high:g}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{rule}, got {value!r}")
    number = float(value)
    inside = (low < number or (low_allowed and number == low)) and (number < high or (high_allowed and number == high))
    if not inside:
        raise ValueError(f"{rule}, got {value!r}")


def check_integer(name: str, value: object, low: int, high: int) -> None:
    """A ValueError unless `value` is an integer from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise ValueError(f"{name} must be an integer from {low} to {high}, got {value!r}")
