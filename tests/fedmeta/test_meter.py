"""Bytes that tensors hold at once, of computations whose tensors can be counted by hand."""

import torch
from torch import Tensor
from torch.func import grad, vmap

from fedmeta.engines.meter import peak_bytes

SIDE = 100
BLOCK = SIDE * SIDE * 8
"""Bytes of a matrix in float64."""
MATRIX = torch.ones(SIDE, SIDE, dtype=torch.float64)


def test_two_matrices_are_alive_while_the_second_is_made_of_the_first() -> None:
    assert peak_bytes(lambda: MATRIX * 2 + 1) == 2 * BLOCK


def test_what_is_let_go_counts_no_more() -> None:
    def chain() -> Tensor:
        x = MATRIX
        for _ in range(5):
            x = x * 2
        return x

    assert peak_bytes(chain) == 2 * BLOCK


def test_views_and_writing_in_place_take_nothing() -> None:
    assert peak_bytes(lambda: (MATRIX * 2).t()[:50].add_(1).reshape(-1)) <= 2 * BLOCK
    assert peak_bytes(lambda: (MATRIX * 2).t().add_(1)) == BLOCK


def test_autograd_keeps_what_it_needs() -> None:
    """Three exponentials, each kept for its derivative."""

    def function(x: Tensor) -> Tensor:
        return x.exp().exp().exp().sum()

    assert peak_bytes(lambda: function(MATRIX)) < 3 * BLOCK
    assert peak_bytes(lambda: grad(function)(MATRIX)) >= 3 * BLOCK


def test_a_batch_of_clients_takes_as_many_times_the_bytes() -> None:
    stack = torch.ones(4, SIDE, SIDE, dtype=torch.float64)
    alone = peak_bytes(lambda: vmap(lambda x: (x * 2).exp())(stack[:1]))
    assert peak_bytes(lambda: vmap(lambda x: (x * 2).exp())(stack)) == 4 * alone == 8 * BLOCK
