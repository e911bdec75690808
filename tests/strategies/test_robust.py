"""Median and trimmed mean beside NumPy, under outliers, and with little memory beside the stack."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedmeta.errors import ConfigError
from strategies.krum import squared_distances
from strategies.robust import (
    BLOCK,
    ROWS,
    Needs,
    bulyan_needs,
    krum_needs,
    median,
    of_sorted,
    trimmed_mean,
    trimmed_mean_needs,
)

SHAPES = {
    "one client": (1, 5),
    "two": (2, 3),
    "odd": (9, 40),
    "even": (10, 40),
    "two blocks": (6, BLOCK // 6 + 7),
    "more clients than are laid out at a time": (2 * ROWS + 3, 1200),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def draw(shape: tuple[int, int], dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def column(*values: float) -> Tensor:
    """Clients with one number each."""
    return torch.tensor(values, dtype=torch.float64)[:, None]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    assert median(column(4, 1, 3, 2)).item() == (2 + 3) / 2
    assert median(column(9, 1, 3)).item() == 3


def test_the_trimmed_mean_drops_as_many_at_both_ends() -> None:
    values = column(8, 100, -7, 5, 2)
    assert trimmed_mean(values, 1).item() == (8 + 5 + 2) / 3
    assert trimmed_mean(values, 2).item() == 5


@shapes
@dtypes
@pytest.mark.usefixtures("threads")
def test_the_median_is_that_of_numpy_to_the_last_bit(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    stack = draw(shape, dtype)
    found = median(stack)
    assert found.dtype == dtype
    assert np.array_equal(found.numpy(), np.median(stack.numpy(), axis=0))


@shapes
@dtypes
@pytest.mark.usefixtures("threads")
def test_the_trimmed_mean_is_that_of_the_sorted_values(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    """A sum of n numbers below 10 is off by at most n units in the last place of 10 n, so the mean by n."""
    stack, trim = draw(shape, dtype), (shape[0] - 1) // 4
    ordered = np.sort(stack.double().numpy(), axis=0)
    expected = torch.from_numpy(ordered[trim : len(ordered) - trim].mean(axis=0))
    atol = 10 * shape[0] * torch.finfo(dtype).eps
    torch.testing.assert_close(trimmed_mean(stack, trim).double(), expected, rtol=0, atol=atol)


def test_stacks_may_be_views() -> None:
    whole = draw((30, 11))
    for view in (whole[:, 2:9], whole[::3], whole.T):
        assert torch.equal(median(view), median(view.contiguous()))


def test_some_clients_can_be_looked_at_alone() -> None:
    stack, some = draw((2 * ROWS, 50)), np.arange(1, 2 * ROWS, 3)
    found = of_sorted(stack, lambda values: values[:, 0], some)
    assert torch.equal(found, stack[torch.from_numpy(some)].amin(dim=0))


@pytest.mark.parametrize("attackers", [1, 2, 4])
@pytest.mark.parametrize("value", [1e6, -1e6, 1e38])
def test_outliers_leave_the_result_within_the_range_of_the_honest(
    attackers: int, value: float
) -> None:
    honest = draw((attackers + 1, 60), torch.float32)
    stack = torch.cat([torch.full((attackers, 60), value), honest])
    for found in (median(stack), trimmed_mean(stack, attackers)):
        assert bool(((honest.amin(dim=0) <= found) & (found <= honest.amax(dim=0))).all())


def test_one_outlier_too_many_gets_through() -> None:
    assert trimmed_mean(column(0, 0, 0, 0, 1e6, 1e6), 1).item() == 1e6 / 4


stacks = st.builds(
    lambda clients, numbers, seed: draw((clients, numbers), seed=seed),
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(0, 1000),
)


@given(stacks, st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_the_order_of_clients_leaves_no_trace(stack: Tensor, seed: int) -> None:
    mixed = stack[torch.randperm(len(stack), generator=torch.Generator().manual_seed(seed))]
    trim = (len(stack) - 1) // 3
    assert torch.equal(median(mixed), median(stack))
    assert torch.equal(trimmed_mean(mixed, trim), trimmed_mean(stack, trim))


@given(stacks, st.integers(-100, 100))
@settings(max_examples=40, deadline=None)
def test_what_all_share_is_added_to_the_result(stack: Tensor, shift: int) -> None:
    trim = (len(stack) - 1) // 3
    close = {"rtol": 0, "atol": 1e-12}  # 100 is rounded to 1.4e-14, twelve times
    torch.testing.assert_close(median(stack + shift), median(stack) + shift, **close)
    torch.testing.assert_close(
        trimmed_mean(stack + shift, trim), trimmed_mean(stack, trim) + shift, **close
    )


@given(stacks)
@settings(max_examples=40, deadline=None)
def test_nothing_trimmed_is_the_mean(stack: Tensor) -> None:
    torch.testing.assert_close(trimmed_mean(stack, 0), stack.mean(dim=0), rtol=0, atol=1e-14)


@given(stacks)
@settings(max_examples=40, deadline=None)
def test_all_but_the_middle_trimmed_is_the_median(stack: Tensor) -> None:
    trim = (len(stack) - 1) // 2
    assert torch.equal(trimmed_mean(stack, trim), median(stack))


def test_the_stack_is_left_as_it_was_and_hardly_anything_is_needed_beside_it() -> None:
    """NumPy reports its memory. 200 clients of 160 kB are 32 MB; a copy of them would be as much."""
    stack = draw((200, 40_000), torch.float32)
    before = stack.clone()
    for rule in (median, lambda x: trimmed_mean(x, 40), squared_distances):
        tracemalloc.start()
        rule(stack)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < stack.nbytes / 2
    assert torch.equal(stack, before)


def refused(needs: Needs, message: str) -> None:
    """With one client less than needed; as many as needed will do."""
    needs.check(needs.least)
    with pytest.raises(ConfigError, match=f"^{message}$"):
        needs.check(needs.least - 1)


def test_every_rule_says_how_many_clients_it_needs() -> None:
    refused(trimmed_mean_needs(2), r"strategy\.trim 2 needs 5 clients or more, got 4")
    refused(krum_needs(3), r"strategy\.attackers 3 needs 9 clients or more, got 8")
    refused(krum_needs(3, 6), r"strategy\.attackers 3 needs 9 clients or more, got 8")
    refused(
        krum_needs(3, 7),
        r"strategy\.keep 7 with strategy\.attackers 3 needs 10 clients or more, got 9",
    )
    refused(bulyan_needs(3), r"strategy\.attackers 3 needs 15 clients or more, got 14")


def test_too_few_clients_are_refused_in_a_round() -> None:
    with pytest.raises(ConfigError, match=r"strategy\.trim 2 needs 5 clients or more, got 4"):
        trimmed_mean(column(1, 2, 3, 4), 2)


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"strategy\.trim must be a whole number >= 0, got -1"):
        trimmed_mean_needs(-1)
    for needs in (krum_needs, bulyan_needs):
        with pytest.raises(ConfigError, match=r"strategy\.attackers must be .* >= 0, got -2"):
            needs(-2)
    with pytest.raises(ConfigError, match=r"strategy\.keep must be a whole number >= 1, got 0"):
        krum_needs(1, 0)
