from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare, kstest

from fedmeta.seeding import bits, choose, uniform

SIGNIFICANT = 1e-3  # the seeds are fixed: a p-value above this once is above it for ever


def splitmix64_finaliser(z: int) -> int:
    """Steele, Lea and Flood 2014, with Stafford's variant 13, in plain integers."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def chained(*address: int) -> int:
    golden, state = 0x9E3779B97F4A7C15, 0
    for part in address:
        word = splitmix64_finaliser((part + golden) % 2**64)
        state = splitmix64_finaliser(((state ^ word) + golden) % 2**64)
    return state


def test_the_oracle_is_splitmix64() -> None:
    """The generator seeded with 0 gives 0xE220A8397B1DCDAF first (Vigna's splitmix64.c)."""
    assert splitmix64_finaliser(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize("address", [(), (0,), (0, 0), (7, 3, 100_000), (2**64 - 1, 5)])
def test_bits_are_chained_splitmix64(address: tuple[int, ...]) -> None:
    assert int(bits(*address)) == chained(*address)


def test_the_same_address_gives_the_same_draw() -> None:
    first = uniform(3, "cohort", 7, np.arange(50))
    assert np.array_equal(first, uniform(3, "cohort", 7, np.arange(50)))


def test_an_integer_is_one_address_whatever_its_type() -> None:
    alike = [5, np.int64(5), np.uint8(5), np.array(5)]
    assert {int(bits(1, part)) for part in alike} == {int(bits(1, 5))}
    assert bits(1, -1) == bits(1, np.array(-1)) == bits(1, 2**64 - 1)


def test_broadcasting_equals_one_by_one() -> None:
    clients, slots = np.array([4, 0, 99_999])[:, None], np.arange(6)
    together = bits(1, "episode", clients, slots)
    alone = [[int(bits(1, "episode", int(c), int(s))) for s in slots] for c in clients[:, 0]]
    assert together.tolist() == alone


@pytest.mark.parametrize("k", [2, 30], ids=["argpartition", "argsort"])
def test_choose_for_many_equals_choose_for_each(k: int) -> None:
    clients, draws = np.array([8, 1, 50])[:, None], np.arange(4)
    together = choose(40, k, 9, "shard", clients, draws)
    assert together.shape == (3, 4, k)
    for row, client in enumerate(clients[:, 0]):
        for draw in draws:
            alone = choose(40, k, 9, "shard", int(client), int(draw))
            assert np.array_equal(together[row, draw], alone)


@pytest.mark.parametrize(
    "other",
    [
        (1, "train", 2, 3),
        (0, "evaluate", 2, 3),
        (0, "train", 3, 3),
        (0, "train", 2, 4),
        (0, "train", 3, 2),
        (0, 2, "train", 3),
        (0, "train", 2),
        (0, "train", 2, 3, 0),
        (0, "trai", "n", 2, 3),
    ],
    ids=str,
)
def test_every_part_of_the_address_and_its_place_matter(other: tuple[int | str, ...]) -> None:
    address = (0, "train", 2, 3)
    assert bits(*address) != bits(*other)
    assert not np.array_equal(choose(1000, 10, *address), choose(1000, 10, *other))


COUNT = 20_000
STREAMS: dict[str, Callable[[NDArray[np.int64]], NDArray[np.float64]]] = {
    "clients": lambda i: uniform(0, "wave", i),
    "rounds": lambda i: uniform(0, i, "cohort"),
    "seeds": lambda i: uniform(i, "cohort", 0),
    "multiples of 2**32": lambda i: uniform(0, "wave", i << 32),
}


@pytest.mark.parametrize("stream", STREAMS)
def test_uniform_is_uniform(stream: str) -> None:
    drawn = STREAMS[stream](np.arange(COUNT))
    assert 0 <= drawn.min() < drawn.max() < 1
    assert kstest(drawn, "uniform").pvalue > SIGNIFICANT


@pytest.mark.parametrize("stream", STREAMS)
def test_neighbouring_addresses_are_independent(stream: str) -> None:
    """Pairs of neighbours fall evenly into 100 cells: 20,000 / 2 / 100 = 100 in each."""
    tenth = (10 * STREAMS[stream](np.arange(COUNT))).astype(int)
    cells = np.bincount(10 * tenth[::2] + tenth[1::2], minlength=100)
    assert chisquare(cells).pvalue > SIGNIFICANT


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 5), (16, 2), (17, 2), (1000, 10), (1000, 999)])
def test_choose_has_no_repetition(n: int, k: int) -> None:
    drawn = choose(n, k, 0, np.arange(50))
    assert drawn.shape == (50, k)
    assert drawn.min() >= 0
    assert drawn.max() < n
    assert all(len(set(row)) == k for row in drawn.tolist())


@pytest.mark.parametrize(("n", "k"), [(16, 2), (17, 2), (1000, 10)])
def test_choosing_fewer_is_a_prefix_of_shuffling_all(n: int, k: int) -> None:
    """So the argsort branch (8 k >= n) and the argpartition branch are one function."""
    shuffled = choose(n, n, 0, np.arange(50))
    assert np.array_equal(choose(n, k, 0, np.arange(50)), shuffled[:, :k])


@pytest.mark.parametrize("n", [5, 20], ids=["argsort", "argpartition"])
def test_choose_is_uniform_over_ordered_pairs(n: int) -> None:
    """All n (n - 1) ordered pairs are equally likely; 100 of each expected."""
    pairs = {pair: 0 for pair in permutations(range(n), 2)}
    for first, second in choose(n, 2, 0, "pair", np.arange(100 * len(pairs))).tolist():
        pairs[first, second] += 1
    assert chisquare(list(pairs.values())).pvalue > SIGNIFICANT
