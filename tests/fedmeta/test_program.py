"""Recorded programs: nothing is computed twice, nothing in vain, and random numbers stay apart."""

import torch
from torch import Tensor

from fedmeta.engines.program import record


def operations(function, *given: Tensor) -> list[str]:
    program = record(function, *given)
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_what_changes_nothing_is_left_out() -> None:
    def idle(x: Tensor) -> list[Tensor]:
        return [(1 * x / 1.0).view(2, 3).expand(2, 3).detach() + 1]

    assert operations(idle, torch.ones(2, 3)) == ["aten.add.Tensor"]


def test_what_changes_shape_or_kind_stays() -> None:
    """A whole number divided by one is no whole number any more."""

    def busy(x: Tensor) -> list[Tensor]:
        return [x.view(6) / 1, (2 * x).expand(4, 2, 3)]

    given = torch.arange(6).view(2, 3)
    assert operations(busy, given) == [
        "aten.view.default", "aten.div.Tensor", "aten.mul.Tensor", "aten.expand.default",
    ]  # fmt: skip
    assert record(busy, given)(given)[0].dtype == torch.float32


def test_equal_steps_are_one_and_random_ones_are_not() -> None:
    def twice(x: Tensor) -> list[Tensor]:
        return [(x @ x).exp() + (x @ x).exp(), torch.rand_like(x) - torch.rand_like(x)]

    found = operations(twice, torch.ones(2, 2))
    assert found.count("aten.mm.default") == found.count("aten.exp.default") == 1
    assert found.count("aten.rand_like.default") == 2


def test_sums_in_a_row_are_one_sum() -> None:
    """With the inner sum of no other use; of 24 whole numbers, so in whatever order."""

    def sums(x: Tensor) -> list[Tensor]:
        once = x.sum(0, keepdim=True)
        flat = x.sum(1, keepdim=True)
        return [once.sum((-1, 1), keepdim=True), flat.sum(0), flat]

    given = torch.arange(24.0).view(2, 3, 4)
    assert operations(sums, given) == ["aten.sum.dim_IntList"] * 3
    assert [value.tolist() for value in record(sums, given)(given)] == [
        value.tolist() for value in sums(given)
    ]


def test_sums_in_a_row_keep_the_shape_that_they_have() -> None:
    """The first keeps its dimension, the second does not."""

    def sums(x: Tensor) -> list[Tensor]:
        return [x.sum(1, keepdim=True).sum(2), x.sum((0, 1), keepdim=True).sum(-1)]

    given = torch.arange(24.0).view(2, 3, 4)
    for found, expected in zip(record(sums, given)(given), sums(given), strict=True):
        assert (found.shape, found.tolist()) == (expected.shape, expected.tolist())
