"""Comparisons of contenders: what is paired with what, by hand; which way the signs go; what is told."""

from dataclasses import astuple, replace
from math import inf, nan

import numpy as np
import pytest
from scipy import stats

from fedmeta.errors import InputError
from simulations.contenders import Comparison, compare_all
from simulations.pairs import Measure, Scores, pair


def drawn(seeds: int, clients: int, level: float, draw: int) -> Scores:
    g = np.random.default_rng(draw)
    queries = g.binomial(25, level, (seeds, clients)) / 25
    return {seed: dict(enumerate(row.tolist())) for seed, row in enumerate(queries)}


def compare(a: Scores, b: Scores, measure: Measure = "accuracy") -> Comparison:
    (found,) = compare_all({"a": a, "b": b}, measure)
    return found


def test_only_what_both_have_is_paired() -> None:
    a = {3: {7: 0.5, 9: 0.6, 1: 0.1}, 5: {7: 0.9}, 8: {1: 0.3}, 9: {1: 0.0}}
    b = {9: {2: 0.0}, 5: {7: 0.4}, 3: {9: 0.8, 7: 0.25, 4: 1.0, 5: 1.0}}
    pairs = pair("a", a, "b", b, "accuracy")
    assert pairs.seeds.tolist() == [0, 0, 1]
    assert pairs.clients.tolist() == [7, 9, 7]
    assert pairs.differences.tolist() == [0.25, -0.2, 0.5]
    assert pairs.left_out == 3 + 2  # of seed 3: 1, 4, 5; of seed 9: 1, 2


def test_numbers_by_hand() -> None:
    """Differences 2, -1, 0 and 4: means 1/3 and 4; ranks 2, -1, none and 3."""
    a: Scores = {0: {0: 5, 1: 2, 2: 3}, 1: {0: 7}}
    b: Scores = {0: {0: 7, 1: 1, 2: 3}, 1: {0: 11}}
    found = compare(a, b, "loss")
    assert (found.seeds, found.clients, found.left_out, found.family) == (2, 4, 0, 1)
    assert found.difference == pytest.approx((1 / 3 + 4) / 2)
    assert found.spread == pytest.approx((4 - 1 / 3) / 2**0.5)
    assert found.improvement == pytest.approx((0.5 + 1) / 2)
    assert found.rank_biserial == pytest.approx((2 + 3 - 1) / 6)
    assert found.p == pytest.approx(stats.ttest_1samp([1 / 3, 4], 0).pvalue)
    assert found.p_ranks == 1 / 2  # of the flips of 1 and 3 half have 4 or -4
    assert found.client_interval is None  # the second seed has one client


def test_one_seed_is_judged_by_its_clients() -> None:
    a, b = drawn(1, 60, 0.8, 0), drawn(1, 60, 0.5, 1)
    found = compare(a, b)
    gains = np.round([a[0][client] - b[0][client] for client in range(60)], 6)
    assert found.p == found.p_ranks == stats.wilcoxon(gains).pvalue
    assert found.spread is found.seed_interval is found.improvement_interval is None
    assert found.interval == found.client_interval
    assert found.verdict == "better"


@pytest.mark.parametrize("seeds", [1, 2, 6])
@pytest.mark.parametrize("measure", ["accuracy", "loss"])
def test_from_the_other_side_all_is_mirrored(seeds: int, measure: Measure) -> None:
    a, b = drawn(seeds, 10, 0.6, 0), drawn(seeds, 10, 0.5, 1)
    (found,) = compare_all({"b": b, "a": a}, measure)
    mirrored = compare(a, b, measure).swapped()
    for one, other in zip(astuple(mirrored), astuple(found), strict=True):
        assert one == (other if isinstance(other, str) or other is None else pytest.approx(other))
    lower = compare({s: {c: -v for c, v in row.items()} for s, row in a.items()},
                    {s: {c: -v for c, v in row.items()} for s, row in b.items()}, "loss")  # fmt: skip
    assert lower.difference == pytest.approx(compare(a, b).difference)


def test_accuracies_that_are_equal_on_paper_are_ties() -> None:
    """0.3 - 0.2 and 0.1 - 0 are not equal in floats, and 0.1 of float32 is not 0.1."""
    a: Scores = {0: {0: 0.3, 1: 0.1, 2: 0.0, 3: float(np.float32(0.1))}}
    b: Scores = {0: {0: 0.2, 1: 0.0, 2: 0.1, 3: 0.1}}
    assert pair("a", a, "b", b, "accuracy").differences.tolist() == [0.1, 0.1, -0.1, 0.0]


def test_a_family_is_corrected_and_leaves_the_rest_as_it_was() -> None:
    contenders = {name: drawn(5, 20, 0.5 + 0.05 * i, i) for i, name in enumerate("abc")}
    found = compare_all(contenders, "accuracy", draw=4)
    assert [(c.a, c.b) for c in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    p = sorted(c.p for c in found)
    adjusted = np.minimum(np.maximum.accumulate([3 * p[0], 2 * p[1], p[2]]), 1)
    assert sorted(c.p_holm for c in found) == pytest.approx(adjusted)
    (alone,) = compare_all({name: contenders[name] for name in "ab"}, "accuracy", draw=4)
    assert replace(found[0], p_holm=found[0].p, family=1) == alone
    assert compare_all({"a": contenders["a"]}, "accuracy") == []


def test_a_verdict_needs_p_and_both_intervals() -> None:
    told = compare(drawn(5, 40, 0.8, 0), drawn(5, 40, 0.6, 1))
    assert told.verdict == "better"
    assert told.swapped().verdict == "worse"
    assert replace(told, p_holm=0.05).verdict == "untold"
    assert replace(told, client_interval=(-0.01, 0.2)).verdict == "untold"
    assert replace(told, client_interval=None).verdict == "better"


def test_shares_that_hardly_vary_claim_no_more_than_the_means() -> None:
    """Means of about 0.1, 5 and 20: t(2) times their error is larger than their mean. Shares 0.9, 1, 1."""
    b: Scores = {seed: dict.fromkeys(range(10), 30.0) for seed in range(3)}
    a: Scores = {
        0: {c: 29.9 if c else 30.1 for c in range(10)},
        1: dict.fromkeys(range(10), 25.0),
        2: dict.fromkeys(range(10), 10.0),
    }
    found = compare(a, b, "loss")
    assert found.seed_interval is not None
    assert found.seed_interval[0] < 0
    assert found.improvement == pytest.approx(2.9 / 3)
    assert found.improvement_interval == (0.5, 1.0)


def test_the_same_scores_are_no_difference() -> None:
    a = drawn(3, 10, 0.5, 0)
    found = compare(a, a)
    assert (found.difference, found.p, found.p_ranks, found.improvement) == (0, 1, 1, 0.5)
    assert found.verdict == "untold"


@pytest.mark.parametrize("score", [nan, inf])
def test_scores_that_are_no_numbers_are_named(score: float) -> None:
    with pytest.raises(InputError, match=f"b: client 4 of seed 2 has score {score}, not a finite"):
        compare({2: {4: 0.1}}, {2: {4: score}})


def test_contenders_without_a_client_in_common_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="a and b have no client of a seed in common"):
        compare({0: {1: 0.5}, 1: {2: 0.5}}, {0: {2: 0.5}, 2: {1: 0.5}})
