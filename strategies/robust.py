"""Robust rules that look at each number on its own: median and trimmed mean, and what all rules share.

A rule takes a stack ``[clients, numbers]``, float32 or float64, all of it finite, and gives ``[numbers]``
or a ``Mix``. Attackers may send whatever they like; the rules differ in how many of them they stand.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmeta.errors import ConfigError

BLOCK, ROWS = 2**19, 512
"""Values that are sorted at a time, by each thread; clients whose values are laid out at a time. Both fit
into the caches of a core."""


class Mix(NamedTuple):
    """What came out, and how much of each client is in it."""

    delta: Tensor
    """``[numbers]``"""
    weights: Tensor
    """``[clients]``, float64; 0 for a client that was left out."""


class Needs(NamedTuple):
    """How many clients a rule needs, and which setting says so."""

    least: int
    setting: str

    def check(self, clients: int) -> None:
        """Raise ConfigError where there are fewer."""
        if clients < self.least:
            raise ConfigError(f"{self.setting} needs {self.least} clients or more, got {clients}")


def trimmed_mean_needs(trim: int) -> Needs:
    """One more than are dropped."""
    return Needs(2 * _count("trim", trim) + 1, f"strategy.trim {trim}")


def krum_needs(attackers: int, keep: int = 1) -> Needs:
    """``2 f + 3`` (Blanchard et al. 2017); what is kept fits in the honest ones."""
    if keep < 1:
        raise ConfigError(f"strategy.keep must be a whole number >= 1, got {keep}")
    least = 2 * _count("attackers", attackers) + 3
    if keep + attackers > least:
        return Needs(keep + attackers, f"strategy.keep {keep} with strategy.attackers {attackers}")
    return Needs(least, f"strategy.attackers {attackers}")


def bulyan_needs(attackers: int) -> Needs:
    """``4 f + 3`` (El Mhamdi et al. 2018)."""
    return Needs(4 * _count("attackers", attackers) + 3, f"strategy.attackers {attackers}")


def _count(name: str, value: int) -> int:
    if value < 0:
        raise ConfigError(f"strategy.{name} must be a whole number >= 0, got {value}")
    return value


def median(stack: Tensor) -> Tensor:
    """Median of each number (Yin et al. 2018, definition 1); stands fewer attackers than half.

    Of an even number of clients it is the mean of the two in the middle, as in NumPy:
    ``torch.median`` takes the lower one.
    """
    low, high = (len(stack) - 1) // 2, len(stack) // 2
    return of_sorted(stack, lambda values: (values[:, low] + values[:, high]) / 2)


def trimmed_mean(stack: Tensor, trim: int) -> Tensor:
    """Mean of each number without its ``trim`` smallest and largest (Yin et al. 2018, definition 2).

    It stands ``trim`` attackers. Raises ConfigError where nothing is left.
    """
    trimmed_mean_needs(trim).check(len(stack))
    return of_sorted(stack, lambda values: values[:, trim : len(stack) - trim].mean(axis=1))


Rule = Callable[[NDArray[Any]], NDArray[Any]]
"""From the values of some numbers, ``[numbers, clients]``, each row ascending, to ``[numbers]``."""


def of_sorted(stack: Tensor, rule: Rule, clients: NDArray[np.intp] | None = None) -> Tensor:
    """What the rule makes of each number's values, all or those of some clients.

    NumPy sorts rows with vector instructions, but only where a row's values are neighbours in memory.
    ``torch.sort`` and ``numpy.median``, whose partition at two places at once has none, take ten times
    as long. Beside the stack it needs some megabytes for each of torch's threads.
    """
    values = stack.numpy(force=True)
    found = np.empty(values.shape[1], values.dtype)
    count = len(values) if clients is None else len(clients)
    size = max(BLOCK // count, 16)  # 16 float32 are a cache line
    starts = range(0, len(found), size)
    threads = min(torch.get_num_threads(), max(len(starts), 1))

    def work(thread: int) -> None:
        buffer = np.empty((size, count), values.dtype)
        for start in starts[thread::threads]:
            part = values[:, start : start + size]
            block = buffer[: part.shape[1]]
            _lay_out(part, clients, block)
            block.sort(axis=1)
            found[start : start + size] = rule(block)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    return torch.from_numpy(found).to(stack.device)


def _lay_out(part: NDArray[Any], clients: NDArray[np.intp] | None, block: NDArray[Any]) -> None:
    for row in range(0, block.shape[1], ROWS):
        rows = slice(row, row + ROWS)
        block[:, rows] = part[rows if clients is None else clients[rows]].T
