"""What two contenders both have: their scores paired by seed and client."""

from collections.abc import Mapping
from math import isfinite
from typing import Literal, NamedTuple

import numpy as np

from fedmeta.errors import InputError
from simulations.statistics import Floats, Ints

Scores = Mapping[int, Mapping[int, float]]
"""Of one contender: seed -> unseen client -> score."""
Measure = Literal["accuracy", "loss"]
DECIMALS = 6
"""Of an accuracy, kept: 1/25 + 2/25 is 3/25 again, in float32 too, and ties are ties."""


class Pairs(NamedTuple):
    """Arrays ``[pairs]``; seeds count from 0."""

    differences: Floats
    """Positive where the first contender is better."""
    seeds: Ints
    clients: Ints
    left_out: int
    """Clients of these seeds that only one of the two has."""

    def by_seed(self, values: Floats) -> Floats:
        """Means over the clients of each seed."""
        return np.bincount(self.seeds, values) / np.bincount(self.seeds)


def check(name: str, scores: Scores) -> None:
    """Every score is a finite number."""
    for seed, clients in scores.items():
        for client, score in clients.items():
            if not isfinite(score):
                raise InputError(
                    f"{name}: client {client} of seed {seed} has score {score}, not a finite number"
                )


def pair(a: str, first: Scores, b: str, second: Scores, measure: Measure) -> Pairs:
    """By seed and client, in their order; a contender lacks what it could not score."""
    shared = {seed: first[seed].keys() & second[seed] for seed in first.keys() & second}
    found = sorted((seed, client) for seed, clients in shared.items() for client in clients)
    if not found:
        raise InputError(f"{a} and {b} have no client of a seed in common: nothing to compare")
    gain = np.array([first[seed][client] - second[seed][client] for seed, client in found])
    return Pairs(
        np.round(gain, DECIMALS) if measure == "accuracy" else -gain,
        np.unique([seed for seed, _ in found], return_inverse=True)[1],
        np.array([client for _, client in found]),
        sum(len(first[seed].keys() ^ second[seed]) for seed in shared),
    )
