"""How evenly scores are spread over clients; for the worst off see ``strategies.evaluation.worst_decile``.

Both numbers compare shares of a total: they suit scores of at least 0 of which more is better. Near a
perfect score both look fair whatever the worst client has.
"""

from collections.abc import Sequence

import numpy as np


def gini(values: Sequence[float]) -> float:
    """``sum_ij |x_i - x_j| / (2 n^2 mean)``, from 0 where all are equal to ``1 - 1/n`` (Gini 1912).

    Summed over sorted values. All zeros are equal.
    """
    ordered = np.sort(_shares(values))
    n = len(ordered)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * (ordered.sum() or 1.0)))


def jain(values: Sequence[float]) -> float:
    """``(sum x)^2 / (n sum x^2)``, from 1 where all are equal to ``1/n`` (Jain, Chiu and Hawe 1984).

    ``k/n`` where k clients share all alike. All zeros are equal.
    """
    x = _shares(values)
    return float(x.sum() ** 2 / (len(x) * (x @ x))) if x.any() else 1.0


def _shares(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Scaled to at most 1, which changes neither number and cannot overflow."""
    x = np.asarray(values, dtype=np.float64)
    if not len(x) or not (x >= 0).all() or not np.isfinite(x).all():
        raise ValueError(f"fairness needs finite scores of at least 0, got {list(values)[:5]} ...")
    return x / (x.max() or 1.0)
