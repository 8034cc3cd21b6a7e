"""Warm-up, stable, decay: a learning rate that needs no end in sight until the decay begins."""

from dataclasses import dataclass


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
