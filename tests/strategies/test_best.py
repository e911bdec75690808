"""The best params are those that clients like most which were asked both times."""

import pytest
import torch

from strategies.best import Best

NONE = float("nan")


def best(scores: dict[int, float], round: int = 1, protocol: str = "how") -> Best:
    values = torch.tensor(list(scores.values()), dtype=torch.float64)
    return Best(round, torch.tensor(list(scores), dtype=torch.int64), values, protocol, {})


@pytest.mark.parametrize(
    ("held", "now", "beats"),
    [
        ({1: 0.5, 2: 0.7}, {1: 0.6, 2: 0.7}, True),
        ({1: 0.5, 2: 0.7}, {2: 0.6, 1: 0.5}, False),  # in any order
        ({1: 0.5, 2: 0.7}, {1: 0.5, 2: 0.7}, False),  # as good is no better
        ({1: 0.5, 2: 0.9}, {1: 0.6}, True),  # 2 went away, and says nothing
        ({1: 0.6}, {1: 0.5, 2: 0.9}, False),  # 2 came
        ({1: 0.5, 2: 0.1}, {1: 0.9, 2: NONE}, False),  # 2 diverged
        ({1: 0.9, 2: NONE}, {1: 0.5, 2: 0.1}, True),
        ({1: 0.5, 2: NONE}, {1: 0.6, 2: NONE}, True),
        ({1: 0.5, 2: NONE, 3: 0.2}, {1: NONE, 2: 0.9, 3: 0.3}, True),  # 3 alone has both
        ({1: 0.5, 2: NONE}, {1: NONE, 2: 0.9}, False),  # nobody has
        ({1: 0.9, 2: NONE}, {1: 0.5}, False),  # 2 diverged, then went away
        ({1: 0.9}, {2: 0.1}, True),  # nobody to ask: the later ones
        ({}, {}, True),
    ],
)
def test_clients_that_answered_both_times_decide(
    held: dict[int, float], now: dict[int, float], beats: bool
) -> None:
    assert best(now).beats(best(held)) is beats


def test_scores_of_another_protocol_are_beaten() -> None:
    assert best({1: 0.1}, protocol="other").beats(best({1: 0.9}))


def test_the_score_is_the_mean_of_those_that_have_one() -> None:
    assert best({1: 0.25, 2: NONE, 3: 0.75}).score == 0.5
