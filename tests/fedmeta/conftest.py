"""Oracles that several tests share."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from fedmeta.types import Batch, Episode, Params

torch.set_num_threads(1)  # small tensors; and sums keep one order


class Quadratic:
    """The mean over examples of ``(w - y)' x (w - y) / 2`` for params ``{"w": [d]}``.

    Every example carries its Hessian ``x [d, d]`` and its centre ``y [d]``, so all about gradient
    descent on it is known in closed form.
    """

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        gap = params["w"] - batch.y
        return torch.einsum("ei,eij,ej->e", gap, batch.x, gap).mean() / 2

    @staticmethod
    def batch(centre: Tensor, hessian: Tensor | None = None, examples: int = 1) -> Batch:
        """Equal examples; without a Hessian it is the identity."""
        hessian = torch.eye(len(centre)).to(centre) if hessian is None else hessian
        return Batch(hessian.expand(examples, -1, -1), centre.expand(examples, -1))

    def episodes(self, support: Sequence[Tensor], query: Sequence[Tensor]) -> Episode:
        """A stack of isotropic episodes of one support and one query example each."""
        return self.stack(
            [Episode(self.batch(s), self.batch(q)) for s, q in zip(support, query, strict=True)]
        )

    @staticmethod
    def stack(episodes: Sequence[Episode]) -> Episode:
        """``[draws, examples, ...]`` from single episodes."""
        support, query = zip(*episodes, strict=True)
        return Episode(
            *(
                Batch(*(torch.stack(part) for part in zip(*side, strict=True)))
                for side in (support, query)
            )
        )


@pytest.fixture(scope="session")
def quadratic() -> Quadratic:
    return Quadratic()


@pytest.fixture
def points() -> Callable[..., Tensor]:
    """Standard normal numbers in float64, the same in every run."""
    generator = torch.Generator().manual_seed(20_240_607)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return draw


@pytest.fixture
def hessians(points: Callable[..., Tensor]) -> Callable[[int], Tensor]:
    """Random positive definite matrices; eigenvalues in [1, 2], so that rates below 1 descend."""

    def draw(size: int) -> Tensor:
        axes, _ = torch.linalg.qr(points(size, size))
        return axes @ torch.diag(1 + torch.sigmoid(points(size))) @ axes.T

    return draw


@pytest.fixture(scope="session")
def relative_error() -> Callable[[Params, Params], float]:
    """The largest difference, in units of the largest absolute value over all expected tensors.

    Tensor by tensor would not do: a bias before batch norm has gradient 0 and only rounding in it.
    """

    def measure(found: Params, expected: Params) -> float:
        assert found.keys() == expected.keys()
        scale = max(float(values.abs().max()) for values in expected.values())
        gaps = [float((found[name] - values).abs().max()) for name, values in expected.items()]
        return max(gaps) / scale

    return measure
