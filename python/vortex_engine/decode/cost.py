"""What sweeps cost on this machine, measured while they run."""

from __future__ import annotations

from vortex_engine.decode.acceptance import Acceptance

__all__ = ["CostModel", "Saldo", "SweepCost"]

_NOISE, _DRIFT = 0.15, 0.03  # of a sweep's time: what varies from one to the next, and what stays changed
_SLOPE = 0.05  # of a sweep's time for each further row, before any block was measured
_OUTLIER = 4.0  # times what was expected: counts as that
_SMOOTHING = 0.2
# Speculation may have lost so many plain sweeps since loading, and that part of all time, before it pauses: together
# less than 2 % after some 100 tokens.
_CREDIT, _LOSS_SHARE = 1.5, 0.005


class SweepCost:
    """Seconds of a sweep over rows, base + slope (rows - 1), followed by a Kalman filter of two states.

    Follows residency, context length and other programs as they change; a single late read moves it little.
    """

    def __init__(self) -> None:
        self.n_observed = 0
        self._base: float = 0.0
        self._slope: float = 0.0
        self._var_base: float = 0.0
        self._var_slope: float = 0.0
        self._covariance: float = 0.0

    def observe(self, n_rows: int, seconds: float) -> None:
        """A sweep of so many rows took so long."""
        self.n_observed += 1
        if self.n_observed == 1:
            self._base = seconds / (1 + _SLOPE * (n_rows - 1))
            self._slope = _SLOPE * self._base
            self._var_base, self._var_slope = (0.5 * self._base) ** 2, (2 * self._slope) ** 2
            return
        x, expected = n_rows - 1, self.seconds(n_rows)
        error = min(seconds, _OUTLIER * expected) - expected
        self._var_base += (_DRIFT * self._base) ** 2
        self._var_slope += (_DRIFT * self._slope) ** 2
        # Gain of each state: its covariance with the observation over the observation's variance.
        with_base = self._var_base + x * self._covariance
        with_slope = self._covariance + x * self._var_slope
        variance = with_base + x * with_slope + (_NOISE * expected) ** 2
        self._base = max(self._base + with_base / variance * error, 1e-9)
        self._slope = max(self._slope + with_slope / variance * error, 0.0)
        self._var_base -= with_base * with_base / variance
        self._covariance -= with_base * with_slope / variance
        self._var_slope -= with_slope * with_slope / variance

    def seconds(self, n_rows: int) -> float:
        """Of a sweep over so many rows; meaningless before one was observed."""
        return self._base + self._slope * (n_rows - 1)

    @property
    def slope_s(self) -> float:
        """Seconds that one more row adds."""
        return self._slope


class Saldo:
    """Seconds that speculation lost against plain decoding, and when that is too much to go on."""

    def __init__(self) -> None:
        self._loss_s = self._total_s = 0.0

    def add(self, loss_s: float, spent_s: float, plain_s: float) -> None:
        """A block took `spent_s`, `loss_s` of them more than plain decoding; a plain sweep takes `plain_s`."""
        # Gains are soon forgotten: a text that turns incompressible must not live on them.
        self._loss_s = max(self._loss_s + loss_s, -2 * plain_s)
        self._total_s += spent_s

    def is_overdrawn(self, plain_s: float) -> bool:
        """Whether the loss is above what trying is worth."""
        return self._loss_s > _CREDIT * plain_s + _LOSS_SHARE * self._total_s


class CostModel:
    """What one loaded model knows from its generations: costs of sweeps and drafts, how good drafts are, and what
    speculation cost or saved.

    Attributes:
        sweep: seconds by rows.
        saldo: seconds lost and spent.
    """

    def __init__(self) -> None:
        self.sweep = SweepCost()
        self.saldo = Saldo()
        self._draft_s: dict[str, float] = {}
        self._acceptance: dict[str, Acceptance] = {}

    def acceptance(self, drafter: str) -> Acceptance:
        """Of the drafter's guesses, so far."""
        return self._acceptance.setdefault(drafter, Acceptance())

    def observe_draft(self, drafter: str, seconds: float) -> None:
        """A token of the drafter took so long."""
        known = self._draft_s.get(drafter)
        if known is None:
            self._draft_s[drafter] = seconds
        else:
            self._draft_s[drafter] = known + _SMOOTHING * (min(seconds, _OUTLIER * known) - known)

    def draft_s(self, drafter: str) -> float | None:
        """Seconds of one of the drafter's tokens; None before one was measured."""
        return self._draft_s.get(drafter)
