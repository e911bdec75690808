"""What it takes to get to a score."""

from math import nan

import pytest

from simulations.cost import reached

CURVE = [(0.0, 0.2), (10.0, 0.5), (20.0, nan), (30.0, 0.8), (40.0, 0.7), (50.0, 0.9)]


@pytest.mark.parametrize(
    ("target", "x"),
    [(0.1, 0), (0.2, 0), (0.21, 10), (0.5, 10), (0.75, 30), (0.8, 30), (0.85, 50), (0.91, None)],
)
def test_the_first_evaluation_at_or_above_the_target(target: float, x: float | None) -> None:
    assert reached(CURVE, target) == x
    assert reached(CURVE[::-1], target) == x


def test_nothing_is_reached_without_points() -> None:
    assert reached([], 0.0) is None
    assert reached([(1.0, nan)], 0.0) is None


def test_losses_are_negated() -> None:
    losses = [(1, 0.9), (2, 0.4), (3, 0.1)]
    assert reached(((x, -loss) for x, loss in losses), -0.5) == 2
