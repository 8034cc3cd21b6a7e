"""Learning rates over a run, as parts of their peaks."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CosineSchedule:
    """Linear warm-up over steps, then half a cosine from 1 down to `min_scale` at the end of the budget.

    Source: arXiv 1608.03983, equation 5, without restarts.
    """

    warmup_steps: int = 100
    min_scale: float = 0.1

    def decaying(self, progress: float) -> bool:
        """Never: no part of the curve is worth coming back to, since all of it depends on the budget."""
        return False

    def lr_scale(self, step: int, *, progress: float) -> float:
        """Factor of the peak rates for `step` (from 0) at `progress`, the spent part of the budget (0 to 1)."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
        return min(warm, self.min_scale + (1.0 - self.min_scale) * cosine)


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over steps, constant, then linear decay to zero over the last part of the budget.

    The stable part does not depend on the budget, so a run stopped there can be given a larger one and goes on
    as if it had had it from the start.

    Source: arXiv 2405.18392 (constant rate with cooldown).
    """

    warmup_steps: int = 100
    decay_fraction: float = 0.4

    def __post_init__(self) -> None:
        if not 0.0 < self.decay_fraction <= 1.0:
            raise ValueError(f"[Schedule] decay_fraction must be in (0, 1], got {self.decay_fraction}")

    def decaying(self, progress: float) -> bool:
        """Whether the decay has begun at `progress`, the spent part of the budget (0 to 1)."""
        return progress > 1.0 - self.decay_fraction

    def lr_scale(self, step: int, *, progress: float) -> float:
        """Factor of the peak rates for `step` (from 0) at `progress`."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        cool = min(1.0, max(0.0, (1.0 - progress) / self.decay_fraction))
        return min(warm, cool)
