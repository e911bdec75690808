"""What is counted over a run is the sum over its rounds."""

from dataclasses import replace

import torch

from fedmeta.replies import Replies
from strategies.tally import NAMED, Tally, count
from strategies.validation import Checked


def checked(good: int, dropped: dict[int, str] | None = None, **more: object) -> Checked:
    """A round with so many good replies."""
    replies = [Replies(list(range(good)), {"w": torch.zeros(good)}, {})] if good else []
    return Checked(replies, dropped or {}, **more)  # type: ignore[arg-type]


def counted(tally: Tally, found: Checked, idle: bool = False, alike: bool = False) -> Tally:
    """A round of half a second in which each client received 100 bytes."""
    return count(tally, found, idle, alike, 100.0, 0.5)


def test_rounds_add_up() -> None:
    tally = Tally()
    tally = counted(tally, checked(4, {7: "slow", 9: "lost"}, bytes_up=30.0, longest=2.0))
    tally = counted(tally, checked(3, {7: "gone"}, bytes_up=50.0, longest=5.0, still=(1,)))
    tally = counted(tally, checked(0, {7: "gone"}, still=(), longest=5.0), idle=True, alike=True)
    assert tally == Tally(
        seconds=1.5,
        client_rounds=4 + 3,
        dropped={"7": 3, "9": 1},
        reasons={"7": "gone", "9": "lost"},
        idle_rounds=1,
        failing_rounds=1,
        zero_deltas={"1": 1},
        longest=5.0,
        bytes_down=100.0 * (6 + 4 + 1),
        bytes_up=4 * 30.0 + 3 * 50.0,
    )


def test_failing_rounds_are_those_in_a_row() -> None:
    tally = Tally()
    found = []
    for alike in (True, True, False, True):
        tally = counted(tally, checked(0), alike=alike)
        found.append(tally.failing_rounds)
    assert found == [1, 2, 0, 1]


def test_a_round_changes_no_tally_of_before() -> None:
    before = Tally(dropped={"7": 1}, reasons={"7": "slow"}, zero_deltas={"1": 2})
    same = replace(before, dropped={"7": 1}, reasons={"7": "slow"}, zero_deltas={"1": 2})
    after = counted(before, checked(2, {7: "gone", 8: "new"}, still=(1,)))
    assert before == same
    assert after.zero_deltas == {"1": 3}


def test_all_who_are_dropped_are_counted_and_not_all_are_explained() -> None:
    """A run of years with a hundred thousand clients has no end of reasons."""
    tally = counted(Tally(), checked(1, {c: "first" for c in range(NAMED + 5)}))
    tally = counted(tally, checked(1, {0: "second", NAMED + 1: "second"}))
    assert (len(tally.dropped), len(tally.reasons)) == (NAMED + 5, NAMED)
    assert (tally.reasons["0"], tally.dropped[str(NAMED + 1)]) == ("second", 2)
    assert str(NAMED + 1) not in tally.reasons
