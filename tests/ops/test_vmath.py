"""exp2 and softplus by themselves: the bounds that csrc/common/vmath.inl.h states."""

from __future__ import annotations

import numpy as np
import pytest

from vortex_engine import _native, ops

F32 = np.float32


@pytest.fixture(params=_native.simd_levels())
def pool(request: pytest.FixtureRequest) -> _native.Pool:
    return ops.make_context(threads=1, simd=request.param, backend="cpu").pool


def every_float(step: int) -> np.ndarray:
    """Every `step`th bit pattern that is a number, or an infinity."""
    values = np.arange(0, 1 << 32, step, np.uint64).astype(np.uint32).view(F32)
    return values[~np.isnan(values)]


def around(*edges: float) -> np.ndarray:
    """The 2000 floats on each side of every edge."""
    offsets = np.arange(-2000, 2001)
    return np.concatenate([(F32(edge).view(np.int32) + offsets).astype(np.int32).view(F32) for edge in edges])


def error_ulp(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distance to the exact values in units of the last place of their floats."""
    return np.abs(got.astype(np.float64) - exact) / np.spacing(np.abs(exact).astype(F32)).astype(np.float64)


def test_exp2_is_within_three_ulp(pool):
    x = np.concatenate([every_float(4001), around(-126.0, -1.0, -0.5, 0.5, 1.0, 127.0), np.linspace(-127, 128, 100001)])
    x = x.astype(F32)
    got = _native.exp2(pool, x)
    normal = (x >= -126.0) & (x < 128.0)
    assert error_ulp(got[normal], np.exp2(x[normal].astype(np.float64))).max() <= 3.0
    small = x < -126.0
    assert np.abs(got[small].astype(np.float64) - np.exp2(x[small].astype(np.float64))).max() <= 2.0**-126
    assert (got[x >= 128.0] == np.inf).all()


def test_exp2_close_to_zero_is_as_true_as_a_float_can_be(pool):
    """The decays of thousands of steps: 2^x with |x| small must err by no more than the rounding of 1 + x ln 2."""
    x = -np.logspace(-9, -1.1, 20001, base=10).astype(F32)
    got = _native.exp2(pool, x).astype(np.float64)
    assert np.abs(got - np.exp2(x.astype(np.float64))).max() <= 0.75 * 2.0**-24


def test_exp2_is_exact_where_it_must_be(pool):
    whole = np.arange(-126, 128).astype(F32)
    np.testing.assert_array_equal(_native.exp2(pool, whole), np.exp2(whole.astype(np.float64)))
    points = {0.0: 1.0, -127.0: 0.0, -128.0: 0.0, -3e38: 0.0, -np.inf: 0.0, 128.0: np.inf, np.inf: np.inf}
    np.testing.assert_array_equal(_native.exp2(pool, np.array([*points], F32)), np.array([*points.values()], F32))
    assert _native.exp2(pool, np.array([-0.0], F32)) == 1.0
    assert np.isnan(_native.exp2(pool, np.array([np.nan, -np.nan], F32))).all()


def test_softplus_is_within_four_ulp(pool):
    x = np.concatenate([every_float(4001), around(-100.0, -1.0, 1.0, 20.0, 88.0), np.linspace(-110, 110, 100001)])
    x = x.astype(F32)
    got = _native.softplus(pool, x)
    finite = np.isfinite(x)
    exact = np.logaddexp(0.0, x[finite].astype(np.float64))
    assert error_ulp(got[finite], exact).max() <= 4.0
    ends = np.array([-np.inf, np.inf, 0.0, 3e38], F32)
    np.testing.assert_array_equal(_native.softplus(pool, ends), np.array([0.0, np.inf, np.log(2.0), 3e38], F32))
    assert np.isnan(_native.softplus(pool, np.array([np.nan], F32))).all()


@pytest.mark.parametrize("function", [_native.exp2, _native.softplus])
def test_every_level_gives_the_same_bits(function):
    x = np.concatenate([every_float(2003), around(-127.0, -126.0, 0.5, 128.0, 20.0)])
    first, *others = (function(ops.make_context(threads=1, simd=simd).pool, x) for simd in _native.simd_levels())
    for other in others:
        np.testing.assert_array_equal(other.view(np.uint32), first.view(np.uint32))


@pytest.mark.parametrize("function", [_native.exp2, _native.softplus])
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 33])
def test_every_length_gives_the_same_bits(pool, function, n):
    x = np.linspace(-20, 20, 64).astype(F32)
    np.testing.assert_array_equal(function(pool, x[:n].copy()), function(pool, x)[:n])
