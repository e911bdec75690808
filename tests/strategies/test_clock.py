"""Simulated devices: how slow they are, who drops out, who is late."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import halfnorm, kstest

from fedmeta.config import Experiment
from fedmeta.replies import Replies
from fedmeta.settings import DeviceSettings
from strategies.clock import TOOK, Clock, on_time
from strategies.validation import Checked

Load = Callable[..., Experiment]
MANY = np.arange(4000)


def clock(down: float = 0.0, up: float = 0.0, seed: int = 0, **settings: object) -> Clock:
    chosen: dict[str, object] = {"slowness": "half_normal"} | settings
    return Clock(DeviceSettings(**chosen), seed, down, up)  # type: ignore[arg-type]


def answers(steps: dict[int, float]) -> Replies:
    """Clients that took so many gradient steps; the delta is the client's id."""
    ids, columns = torch.tensor(list(steps)), {"steps": torch.tensor(list(steps.values()))}
    return Replies(list(steps), {"w": ids[:, None].double()}, columns)


def test_slowness_is_half_normal_with_mean_1() -> None:
    """Kolmogorov-Smirnov at 0.1 %; the mean of n is within 4 of its deviations, sqrt(pi/2 - 1) / n^1/2."""
    drawn = clock().slowness(MANY)
    assert kstest(drawn * np.sqrt(2 / np.pi), halfnorm.cdf).pvalue > 1e-3
    assert abs(drawn.mean() - 1) < 4 * np.sqrt((np.pi / 2 - 1) / len(MANY))
    assert (clock(slowness="equal").slowness(MANY) == 1).all()


def test_a_device_is_as_slow_in_every_round_whoever_else_is_asked() -> None:
    whole = clock().slowness(MANY)
    assert (clock().slowness(MANY[[7, 3000, 5]]) == whole[[7, 3000, 5]]).all()
    assert (clock(seed=1).slowness(MANY) != whole).any()
    assert abs(np.corrcoef(clock(seed=1).slowness(MANY), whole)[0, 1]) < 4 / np.sqrt(len(MANY))


def test_seconds_by_hand() -> None:
    """10 s overhead, 20 steps of 0.05 s, 1.5 MB down at 0.75 MB/s and 0.5 MB up at 0.25 MB/s."""
    steps = np.array([20.0, 40.0])
    equal = clock(1.5e6, 0.5e6, slowness="equal").seconds(np.array([3, 4]), steps)
    assert equal.tolist() == pytest.approx([10 + 1 + 2 + 2, 10 + 2 + 2 + 2])
    other = clock(
        1e6, 1e6, slowness="equal", overhead=1.0, seconds_per_step=2.0, download=4.0, upload=5.0
    )
    assert other.seconds(np.array([3]), np.array([3.0])) == pytest.approx([1 + 6 + 1 / 4 + 1 / 5])
    slow = clock(1.5e6, 0.5e6)
    found = slow.seconds(MANY, np.full(len(MANY), 20.0))
    np.testing.assert_allclose(found, 14 + slow.slowness(MANY), rtol=1e-12)


def test_dropout_is_as_often_as_it_says_and_repeatable() -> None:
    """Of n draws with probability p, within 4 sqrt(n p (1 - p)) of n p."""
    rounds, p = range(1, 26), 0.1
    here = np.array([clock(dropout=p).reachable(MANY, r) for r in rounds])
    draws = here.size
    assert abs((~here).sum() - p * draws) < 4 * np.sqrt(draws * p * (1 - p))
    assert here.all(axis=0).mean() < 2 * 0.9**25  # it is not always the same who drop out
    some = MANY[[9, 1234]]
    assert (clock(dropout=p).reachable(some, 3) == here[2][some]).all()
    assert clock().reachable(MANY, 1).all()


def test_the_wire_decides_the_bytes(quickstart: Load) -> None:
    """Of 1000 numbers: 4 bytes each, 2 in half precision, and 1 with a scale of 4 as int8."""
    params = {"w": torch.zeros(10, 100)}
    none = quickstart()
    assert Clock.of(none, params) is None
    exact = Clock.of(quickstart("devices.slowness=equal"), params)
    assert exact is not None
    assert (exact.down, exact.up) == (4000, 4000)
    small = quickstart("devices.slowness=equal", "wire.params=bfloat16", "wire.deltas=int8")
    found = Clock.of(small, params)
    assert found is not None
    assert (found.down, found.up) == (2000, 1004)


def test_without_a_clock_no_time_passes() -> None:
    checked = Checked([answers({1: 5})], {})
    timed = on_time(checked, None, 7.0)
    assert (timed.checked, timed.now) == (checked, 7.0)


def test_a_round_is_over_when_the_last_is_in() -> None:
    checked = Checked([answers({1: 20, 2: 60}), answers({3: 40})], {9: "broken"})
    timed = on_time(checked, clock(slowness="equal"), 100.0)
    assert timed.now == pytest.approx(100 + 10 + 60 * 0.05)
    assert [r.columns[TOOK].tolist() for r in timed.checked.replies] == [[11.0, 13.0], [12.0]]
    assert timed.checked.dropped == {9: "broken"}
    assert TOOK not in checked.replies[0].columns


@pytest.mark.parametrize("replies", [[], [{1: 20}]])
def test_who_never_answers_is_waited_for_until_the_deadline(
    replies: list[dict[int, float]],
) -> None:
    checked = Checked([answers(each) for each in replies], {})
    timed = on_time(checked, clock(slowness="equal", deadline=30.0), 100.0, absent=True)
    assert timed.now == 130.0
    without = on_time(checked, clock(slowness="equal"), 100.0, absent=True)
    assert without.now == (111.0 if replies else 100.0)  # or it would wait for ever


def test_the_late_are_dropped_at_the_deadline() -> None:
    """11, 13 and 12 s with 12.5 to go: client 2 is late. Who needs the 12.5 exactly is not."""
    checked = Checked([answers({1: 20, 2: 60}), answers({3: 40})], {9: "broken"})
    timed = on_time(checked, clock(slowness="equal", deadline=12.5), 100.0)
    assert timed.now == 112.5
    assert timed.checked.dropped == {9: "broken", 2: "13 s (simulated), past the deadline"}
    assert [reply.clients for reply in timed.checked.replies] == [[1], [3]]
    assert timed.checked.replies[0].deltas["w"].tolist() == [[1.0]]
    punctual = on_time(checked, clock(slowness="equal", deadline=13.0), 100.0)
    assert punctual.checked.dropped == {9: "broken"}
    assert [reply.clients for reply in punctual.checked.replies] == [[1, 2], [3]]
    assert punctual.now == 113.0
    early = on_time(checked, clock(slowness="equal", deadline=50.0), 100.0)
    assert early.now == 113.0  # all are in before it


def test_a_node_all_of_whose_clients_are_late_is_gone() -> None:
    checked = Checked([answers({1: 20}), answers({2: 60, 4: 70})], {})
    timed = on_time(checked, clock(slowness="equal", deadline=12.0), 0.0)
    assert [reply.clients for reply in timed.checked.replies] == [[1]]
    assert timed.checked.dropped.keys() == {2, 4}
    nobody = on_time(replace(checked, replies=[]), clock(deadline=12.0), 5.0)
    assert (nobody.checked.replies, nobody.now) == ([], 5.0)
    assert nobody.arrives(None).tolist() == []
