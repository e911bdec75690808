import torch

from fedmeta.params import concatenate, finite, select, weighted_sum


def test_finite_names_the_clients_with_a_bad_number_anywhere() -> None:
    stack = {"a": torch.ones(4, 2, 3), "b": torch.ones(4)}
    stack["a"][1, 1, 2] = torch.nan
    stack["b"][3] = -torch.inf
    assert finite(stack).tolist() == [True, False, True, False]


def test_weighted_sum(points) -> None:
    stack, weights = {"a": points(3, 2, 2), "b": points(3)}, torch.tensor([2.0, 0, -1])
    found = weighted_sum(stack, weights)
    for name, values in stack.items():
        torch.testing.assert_close(found[name], 2 * values[0] - values[2], atol=1e-12, rtol=0)


def test_weighted_sum_keeps_the_dtype() -> None:
    weights = torch.ones(2, dtype=torch.float64)
    assert weighted_sum({"a": torch.ones(2, 3)}, weights)["a"].dtype == torch.float32


def test_select_and_concatenate_are_inverse(points) -> None:
    stack = {"a": points(4, 2), "b": points(4)}
    parts = (
        select(stack, torch.tensor([0, 1])),
        select(stack, torch.tensor([False, False, True, True])),
    )
    joined = concatenate(parts)
    assert all(torch.equal(joined[name], values) for name, values in stack.items())
