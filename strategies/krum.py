"""Robust rules that keep the clients whose neighbours are near: Krum and Multi-Krum.

Blanchard et al., NeurIPS 2017. Distances are over all numbers at once, not layer by layer.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strategies.robust import Mix, krum_needs, median

Floats = NDArray[np.float64]
COLUMNS = 2048
"""Numbers that are multiplied at a time, in the stack's precision; the sums over them are float64."""


def krum(stack: Tensor, attackers: int) -> Mix:
    """The one delta with the least score: the output is one of the inputs."""
    return multi_krum(stack, attackers, keep=1)


def multi_krum(stack: Tensor, attackers: int, keep: int) -> Mix:
    """Mean of the ``keep`` deltas with the least scores, each with the same weight.

    Among equals the client that comes first is taken. Raises ConfigError where there are fewer than
    ``2 f + 3`` clients, or more are to be kept than are honest.
    """
    krum_needs(attackers, keep).check(len(stack))
    best = np.argsort(scores(squared_distances(stack), attackers), kind="stable")[:keep]
    weights = torch.zeros(len(stack), dtype=torch.float64)
    weights[torch.from_numpy(best)] = 1 / keep
    return Mix(weights.to(stack) @ stack, weights)


def scores(distances: Floats, attackers: int) -> Floats:
    """``[clients]``: sum of the distances to the n - f - 2 nearest others."""
    neighbours = len(distances) - attackers - 2
    return np.asarray(np.sort(distances, axis=1)[:, :neighbours].sum(axis=1))


def squared_distances(stack: Tensor) -> Floats:
    """``|x_i - x_j|^2``, ``[clients, clients]``; inf on the diagonal: nobody is a neighbour of oneself.

    ``|x|^2 + |y|^2 - 2 x.y`` loses what is common to x and y; so the median, which a minority cannot
    move far, is taken off first. What overflows is infinitely far away.
    """
    values, centre = stack.numpy(force=True), median(stack).numpy(force=True)
    products = np.zeros((len(values), len(values)))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(centre), COLUMNS):
            columns = slice(start, start + COLUMNS)
            part = values[:, columns] - centre[columns]
            products += part @ part.T  # NumPy sees that this is symmetric and does half of it
        squares = np.diag(products)
        distances = squares[:, None] + squares - 2 * products
    distances = np.nan_to_num(np.maximum(distances, 0), nan=np.inf, posinf=np.inf)
    np.fill_diagonal(distances, np.inf)
    return distances
