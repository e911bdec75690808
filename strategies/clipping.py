"""Robust rules that give clients far away less weight: geometric median, norm and centred clipping."""

import torch
from torch import Tensor

from strategies.robust import Mix, median


def geometric_median(
    stack: Tensor,
    weights: Tensor,
    nu: float = 1e-6,
    iterations: int = 100,
    tolerance: float = 1e-5,
) -> Mix:
    """The point whose weighted sum of distances is least; stands attackers of less than half the weight.

    Smoothed Weiszfeld (Pillutla et al. 2022): ``z <- sum_i b_i x_i / sum_i b_i`` with
    ``b_i = w_i / max(nu, |z - x_i|)``. It starts at the median of each number, which attackers cannot
    move far, and ends when a step is shorter than ``tolerance`` times the distances' harmonic mean.
    """
    shares, point = weights.double() / weights.double().sum(), median(stack)
    for _ in range(iterations):
        pull = shares / distances(stack, point).clamp_min(nu)
        mixed = pull / pull.sum()
        before, point = point, mixed.to(stack) @ stack
        if float(torch.linalg.vector_norm(point - before)) <= tolerance / float(pull.sum()):
            break
    return Mix(point, mixed)


def clipped_mean(stack: Tensor, weights: Tensor, radius: float) -> Mix:
    """Weighted mean of deltas that are shortened to the length ``radius`` (Sun et al. 2019).

    The weights that come out add up to less than 1 where a delta was shortened.
    """
    shares = weights.double() / weights.double().sum()
    centre = torch.zeros_like(stack[0])
    factors = shares * shrinkage(stack, centre, radius)
    return Mix(factors.to(stack) @ stack, factors)


def centred_clipping(stack: Tensor, centre: Tensor, radius: float, iterations: int = 1) -> Mix:
    """``v <- v + mean_i (x_i - v) min(1, radius / |x_i - v|)`` from ``centre``, the last delta.

    Karimireddy, He and Jaggi, ICML 2021. What the weights that come out lack to 1 is the
    weight of the centre.
    """
    point, mixed = centre, torch.zeros(len(stack), dtype=torch.float64)
    for _ in range(iterations):
        factors = shrinkage(stack, point, radius) / len(stack)
        rest = 1 - factors.sum()
        mixed = rest * mixed + factors
        point = rest.to(stack) * point + factors.to(stack) @ stack
    return Mix(point, mixed)


def shrinkage(stack: Tensor, centre: Tensor, radius: float) -> Tensor:
    """What each difference to the centre is multiplied with to be no longer than ``radius``."""
    return (radius / distances(stack, centre)).clamp_max(1)


def distances(stack: Tensor, centre: Tensor) -> Tensor:
    """``|x_i - centre|``, float64 ``[clients]``; one client at a time, for it stays in the cache."""
    return torch.stack([torch.linalg.vector_norm(x - centre) for x in stack]).double()
