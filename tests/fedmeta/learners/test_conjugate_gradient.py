from collections.abc import Callable

import pytest
import torch
from scipy.sparse.linalg import cg
from torch import Tensor

from fedmeta.learners.conjugate_gradient import solve
from fedmeta.types import Params


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def times(matrix: Tensor) -> Callable[[Params], Params]:
    return lambda v: {"x": matrix @ v["x"]}


def with_eigenvalues(points, *values: float) -> Tensor:
    axes, _ = torch.linalg.qr(points(len(values), len(values)))
    return axes @ torch.diag(torch.tensor(values).to(axes)) @ axes.T


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_as_many_steps_as_unknowns_solve(points, hessians, size: int) -> None:
    matrix, b = hessians(size), points(size)
    found, residual = solve(times(matrix), {"x": b}, size)
    close(found["x"], torch.linalg.solve(matrix, b))
    assert residual < 1e-10


def test_several_tensors_are_one_vector(points, hessians) -> None:
    """One matrix couples a matrix, a number and a vector."""
    matrix, flat = hessians(9), points(9)
    b = {"m": flat[:6].reshape(2, 3), "s": flat[6], "v": flat[7:]}

    def product(v: Params) -> Params:
        image = matrix @ torch.cat([v["m"].flatten(), v["s"][None], v["v"]])
        return {"m": image[:6].reshape(2, 3), "s": image[6], "v": image[7:]}

    found, _ = solve(product, b, 9)
    assert {name: x.shape for name, x in found.items()} == {n: x.shape for n, x in b.items()}
    flat_found = torch.cat([found["m"].flatten(), found["s"][None], found["v"]])
    close(flat_found, torch.linalg.solve(matrix, flat))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_multiple_of_the_identity_takes_one_step(points, scale: float) -> None:
    b = points(7)
    found, residual = solve(lambda v: {"x": scale * v["x"]}, {"x": b}, 1)
    torch.testing.assert_close(found["x"], b / scale, atol=0, rtol=1e-14)
    assert residual < 1e-14


def test_as_many_steps_as_different_eigenvalues_solve(points) -> None:
    """Step k is the best in the Krylov space of k powers, which holds the solution at the third."""
    matrix, b = with_eigenvalues(points, 1, 1, 1, 3, 3, 10, 10), points(7)
    assert solve(times(matrix), {"x": b}, 2)[1] > 1e-3
    found, residual = solve(times(matrix), {"x": b}, 3)
    close(found["x"], torch.linalg.solve(matrix, b))
    assert residual < 1e-10


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
def test_every_step_is_that_of_scipy(points, steps: int) -> None:
    matrix, b = with_eigenvalues(points, *range(1, 11)), points(10)
    found, residual = solve(times(matrix), {"x": b}, steps)
    theirs, _ = cg(matrix.numpy(), b.numpy(), rtol=0, atol=0, maxiter=steps)
    close(found["x"], torch.from_numpy(theirs))
    close(residual, (b - matrix @ found["x"]).norm() / b.norm())
    assert residual > 1e-6


def test_steps_beyond_the_solution_change_nothing(points, hessians) -> None:
    matrix, b = hessians(4), points(4)
    found, residual = solve(times(matrix), {"x": b}, 200)
    close(found["x"], torch.linalg.solve(matrix, b))
    assert residual < 1e-14


def test_nothing_to_solve_for_gives_nothing(hessians) -> None:
    zero = torch.zeros(4, dtype=torch.float64)
    found, residual = solve(times(hessians(4)), {"x": zero}, 3)
    assert torch.equal(found["x"], zero)
    assert residual == 0


@pytest.mark.parametrize("curvature", [-1.0, 0.0])
def test_without_positive_curvature_it_hands_the_right_side_back(points, curvature: float) -> None:
    b = points(4)
    found, residual = solve(lambda v: {"x": curvature * v["x"]}, {"x": b}, 3)
    assert torch.equal(found["x"], b)
    assert residual == 1


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_it_stops_where_curvature_turns_negative(steps: int) -> None:
    """``A = diag(1, -10)`` has one positive direction, so what is conjugate to it has none.

    With ``b = (1, 0.1)``: ``b'Ab = 1 - 0.1``, and the first step is ``x = b'b / b'Ab b``.
    """
    matrix, b = torch.diag(torch.tensor([1.0, -10.0])).double(), torch.tensor([1, 0.1]).double()
    found, residual = solve(times(matrix), {"x": b}, steps)
    close(found["x"], (b @ b) / (b @ matrix @ b) * b)
    close(residual, (b - matrix @ found["x"]).norm() / b.norm())


def test_a_stack_of_systems_under_vmap(points, hessians) -> None:
    """One of them has nothing to solve, one is indefinite, one is done after one step."""
    matrices = torch.stack([hessians(4), hessians(4), -hessians(4), torch.eye(4).double()])
    sides = torch.stack([points(4), torch.zeros(4).double(), points(4), points(4)])

    def one(matrix: Tensor, b: Tensor) -> tuple[Params, Tensor]:
        return solve(times(matrix), {"x": b}, 4)

    found, residuals = torch.vmap(one)(matrices, sides)
    for x, residual, matrix, b in zip(found["x"], residuals, matrices, sides, strict=True):
        expected, left = one(matrix, b)
        close(x, expected["x"])
        close(residual, left)
    close(found["x"][0], torch.linalg.solve(matrices[0], sides[0]))
    close(found["x"][2], sides[2])
