"""Which client two nodes share, against sets of ids."""

import numpy as np
import pytest

from fedmeta.wire import runs
from strategies.hosted import Hosted


def drawn(rng: np.random.Generator) -> tuple[set[int], Hosted]:
    """One to three splits of some of 30 ids."""
    ids = rng.permutation(30)[: rng.integers(1, 12)]
    splits = np.array_split(ids, 3)
    spans = tuple(tuple(runs(sorted(split.tolist()))) for split in splits)
    return set(ids.tolist()), Hosted(spans, own=True)


def test_the_lowest_client_of_both_is_named() -> None:
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(500):
        (a, first), (b, second) = drawn(rng), drawn(rng)
        expected = min(a & b, default=None)
        assert first.clash(second) == second.clash(first) == expected
        found.add(expected is None)
    assert found == {True, False}


@pytest.mark.parametrize("own", [(True, True), (True, False), (False, True), (False, False)])
def test_only_clients_of_a_device_are_not_shared(own: tuple[bool, bool]) -> None:
    """Workers share theirs, also where one hosts more than the other."""
    first, second = (
        Hosted(((range(start, 9),), (), ()), mine) for start, mine in zip((0, 4), own, strict=True)
    )
    assert first.clash(second) == (4 if any(own) else None)
