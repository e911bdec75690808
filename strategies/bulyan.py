"""Bulyan: many clients by Krum, and of each number the mean of what is close to their median.

El Mhamdi et al., ICML 2018. A minority close to the others can still be far off in a few
numbers, which Krum does not see.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from strategies.krum import Floats, squared_distances
from strategies.robust import bulyan_needs, of_sorted


def bulyan(stack: Tensor, attackers: int) -> Tensor:
    """With f attackers: n - 2f clients, and of each number the mean of the n - 4f next to the median.

    Of two values as far away the smaller one is taken. Raises ConfigError below ``4 f + 3`` clients.
    """
    bulyan_needs(attackers).check(len(stack))
    keep = len(stack) - 4 * attackers
    chosen = repeated_krum(squared_distances(stack), attackers, len(stack) - 2 * attackers)
    return of_sorted(stack, lambda values: around_median(values, keep), np.sort(chosen))


def around_median(values: NDArray[Any], keep: int) -> NDArray[Any]:
    """Mean of the ``keep`` values closest to the median; rows ``[numbers, clients]`` are sorted.

    They are neighbours. The window moves up while the value that enters is closer than that which leaves.
    """
    count = values.shape[1]
    twice = values[:, (count - 1) // 2] + values[:, count // 2]
    moves = twice[:, None] > values[:, : count - keep] + values[:, keep:]
    window = moves.sum(axis=1)[:, None] + np.arange(keep)
    return np.asarray(np.take_along_axis(values, window, axis=1).mean(axis=1))


def repeated_krum(distances: Floats, attackers: int, picks: int) -> NDArray[np.intp]:
    """Clients in the order in which Krum takes one after the other out of those that are left.

    A score counts as many neighbours less as clients are gone. So each removal takes one distance out
    of each score: that of the client removed, or the longest if it did not count.
    """
    everyone, left = np.arange(len(distances)), np.ones(len(distances), bool)
    order = np.argsort(distances, axis=1, kind="stable")
    rank = np.argsort(order, axis=1)
    counted = np.take_along_axis(distances, order, axis=1)[:, : len(distances) - attackers - 2]
    last = np.full(len(distances), counted.shape[1] - 1)  # place of the longest that counts
    chosen = []
    for _ in range(picks):
        candidates = np.flatnonzero(left)
        best = candidates[counted[candidates].sum(axis=1).argmin()]
        chosen.append(best)
        left[best] = False
        counted[everyone, np.minimum(rank[:, best], last)] = 0
        back = rank[:, best] >= last
        while (back := back & (last > 0)).any():
            last -= back
            back = ~left[order[everyone, last]]
    return np.array(chosen, np.intp)
