"""Comparisons in words: the sentences, and that words and numbers never contradict each other."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.contenders import Comparison, compare_all
from simulations.statements import statement

TOLD = Comparison(
    a="fedadam",
    b="fedavg",
    measure="accuracy",
    seeds=5,
    clients=2000,
    left_out=0,
    difference=0.0214,
    spread=0.006,
    seed_interval=(0.014, 0.0288),
    client_interval=(0.016, 0.027),
    p=0.001,
    p_holm=0.003,
    family=3,
    p_ranks=0.0625,
    improvement=0.6,
    improvement_interval=(0.55, 0.65),
    rank_biserial=0.3,
)
UNTOLD = replace(
    TOLD,
    difference=0.003,
    spread=0.0068,
    seed_interval=(-0.0056, 0.0114),
    client_interval=(-0.003, 0.009),
    p=0.4,
    p_holm=0.8,
    family=1,
)
BASE = "fedadam cannot be told from fedavg on unseen clients"


def test_told() -> None:
    words = "fedadam beats fedavg on unseen clients by 2.1 points [1.4, 2.9]"
    assert statement(TOLD) == words
    assert statement(TOLD.swapped()) == words
    assert statement(replace(TOLD, seeds=3)) == f"{words}; with 3 seeds the interval is wide"


def test_told_by_the_loss() -> None:
    loss = replace(TOLD, measure="loss", difference=0.12, seed_interval=(0.08, 0.16))
    assert statement(loss) == (
        "fedadam beats fedavg on unseen clients: it lowers the loss by 0.120 [0.080, 0.160]"
    )


def test_one_seed_speaks_of_two_models() -> None:
    one = replace(TOLD, seeds=1, spread=None, seed_interval=None, improvement_interval=None)
    assert statement(one) == (
        "fedadam beats fedavg on unseen clients by 2.1 points [1.6, 2.7]; "
        "one seed: this speaks of these two models, not of other seeds"
    )
    mean = replace(one, client_interval=(-0.001, 0.027), p_ranks=0.001)
    assert statement(mean).startswith(
        f"{BASE} (2.1 points [-0.1, 2.7]); most clients tell them apart (signed ranks p = 0.001), "
        "the mean does not: it hangs on few clients; one seed:"
    )


@pytest.mark.parametrize(
    ("spread", "worth", "plan"),
    [  # tables of seeds to tell: spread / worth of 2, 1, 1/0.8 and 5 need 34, 10, 15 and 199 in all
        (0.0100, None, "about 29 more seeds would tell a difference of 0.5 points"),
        (0.0100, 0.01, "about 5 more seeds would tell a difference of 1 point"),
        (0.0200, 0.016, "about 10 more seeds would tell a difference of 1.6 points"),
        (0.0250, None, "about 194 more seeds would tell a difference of 0.5 points"),
        (0.0020, None, "a difference of 0.5 points would most likely have been told"),
        (0.0800, None, "no feasible number of seeds would tell a difference of 0.5 points"),
    ],
)
def test_untold_with_what_would_tell(spread: float, worth: float | None, plan: str) -> None:
    found = statement(replace(UNTOLD, spread=spread), worth)
    assert found == f"{BASE} (0.3 points [-0.6, 1.1]); {plan}"


def test_one_more_seed_is_enough() -> None:
    nine = replace(UNTOLD, seeds=9, spread=0.01)
    assert statement(nine, 0.01).endswith("; about 1 more seed would tell a difference of 1 point")


def test_a_large_family_needs_more_seeds() -> None:
    def more(comparison: Comparison) -> int:
        return int(re.findall(r"about (\d+) more", statement(comparison))[0])

    assert more(replace(UNTOLD, family=10)) > more(UNTOLD)


def test_losses_are_planned_for_the_difference_that_was_seen() -> None:
    loss = replace(
        UNTOLD, measure="loss", difference=-0.02, spread=0.04, seed_interval=(-0.07, 0.03)
    )
    assert statement(loss) == (  # 0.02 / 0.04: 34 in all
        "fedavg cannot be told from fedadam on unseen clients (lowers the loss by 0.02 "
        "[-0.03, 0.07]); about 29 more seeds would tell a difference of 0.02"
    )


def test_reasons_why_what_looks_told_is_not() -> None:
    family = statement(replace(TOLD, p=0.02, p_holm=0.06))
    assert family.startswith(
        f"{BASE} (2.1 points [1.4, 2.9]); as the only pair it might be (p = 0.02), but not as one "
        "of 3 (p = 0.06 after Holm); "
    )
    others = statement(replace(TOLD, client_interval=(-0.002, 0.04)))
    assert (
        others == f"{BASE} (2.1 points [1.4, 2.9]); for other clients it might not hold [-0.2, 4.0]"
    )
    same = statement(replace(UNTOLD, spread=0.0, seed_interval=None, p=1.0, p_holm=1.0))
    assert same == (
        f"{BASE} (0.30 points); the difference is the same in all seeds, which tells nothing of others"
    )
    ranks = statement(replace(UNTOLD, seeds=10, p_ranks=0.002))
    assert "; most clients tell them apart (signed ranks p = 0.002)" in ranks


def test_clients_that_are_missing_are_counted() -> None:
    found = statement(replace(TOLD, left_out=12))
    assert found.endswith("; 12 clients that only one of them has are left out")


def test_an_end_that_is_not_zero_does_not_look_like_it() -> None:
    close = replace(TOLD, seed_interval=(0.00004, 0.0428))
    assert statement(close).endswith("by 2.140 points [0.004, 4.280]")


def test_zero_has_no_sign() -> None:
    assert "[0.0, 1.1]" in statement(replace(UNTOLD, seed_interval=(-0.0001, 0.0114)))


ROWS = st.integers(1, 6).flatmap(
    lambda clients: st.lists(
        st.lists(st.integers(0, 25), min_size=clients, max_size=clients), min_size=1, max_size=7
    )
)


@given(first=ROWS, gain=st.integers(-4, 12), draw=st.integers(0, 3), loss=st.booleans())
@settings(max_examples=60, deadline=None)
def test_words_and_numbers_agree(first: list[list[int]], gain: int, draw: int, loss: bool) -> None:
    g = np.random.default_rng(draw)
    a = {s: {c: v / 25 for c, v in enumerate(row)} for s, row in enumerate(first)}
    b = {
        s: {c: v + (gain + g.integers(-2, 3)) / 25 for c, v in row.items()} for s, row in a.items()
    }
    (found,) = compare_all({"a": a, "b": b}, "loss" if loss else "accuracy", draw)
    text = statement(found)
    numbers = [float(n) for n in re.findall(r"-?\d+\.\d+", text.split(";")[0])]
    beats = " beats " in text
    assert beats == (found.verdict != "untold")
    if len(numbers) == 3:
        middle, low, high = numbers
        assert low <= high
        assert middle >= 0
        assert not beats or 0 < low <= middle <= high
        excluded = low > 0 or high < 0
        assert beats or not excluded or ";" in text
    if beats:
        assert len(numbers) == 3
        better = text.split(" ")[0]
        assert (better == "a") == (found.difference > 0)
