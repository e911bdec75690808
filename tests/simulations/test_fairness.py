"""Fairness numbers against closed forms and their definitions."""

import numpy as np
import pytest

from simulations.fairness import gini, jain


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_closed_forms(n: int) -> None:
    equal, one = [0.3] * n, [0.0] * (n - 1) + [0.8]
    counted = [float(i) for i in range(1, n + 1)]
    assert gini(equal) == pytest.approx(0.0, abs=1e-15)
    assert gini(one) == pytest.approx(1 - 1 / n)
    assert gini(counted) == pytest.approx((n - 1) / (3 * n))
    assert jain(equal) == pytest.approx(1.0)
    assert jain(one) == pytest.approx(1 / n)
    assert jain(counted) == pytest.approx(1.5 * (n + 1) / (2 * n + 1))  # from sums of i and i^2


def test_some_who_share_all() -> None:
    """Of n clients k have the same: Gini 1 - k/n, Jain k/n."""
    values = [0.0, 0.7, 0.7, 0.0, 0.7]
    assert gini(values) == pytest.approx(1 - 3 / 5)
    assert jain(values) == pytest.approx(3 / 5)


def test_definitions_order_and_scale() -> None:
    x = np.random.default_rng(0).random(50)
    pairs = np.abs(x[:, None] - x[None, :]).sum() / (2 * 50**2 * x.mean())
    assert gini(x.tolist()) == pytest.approx(pairs)
    variation = x.std() / x.mean()
    assert jain(x.tolist()) == pytest.approx(1 / (1 + variation**2))
    for number in (gini, jain):
        assert number((1e300 * x[::-1]).tolist()) == pytest.approx(number(x.tolist()))


def test_zeros_are_equal() -> None:
    assert (gini([0.0, 0.0]), jain([0.0, 0.0])) == (0.0, 1.0)


@pytest.mark.parametrize("values", [[], [0.1, -0.1], [0.1, float("nan")], [float("inf")]])
def test_what_has_no_shares_is_refused(values: list[float]) -> None:
    for number in (gini, jain):
        with pytest.raises(ValueError, match="finite scores of at least 0"):
            number(values)
