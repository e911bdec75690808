"""The conjugate gradient method, with a fixed number of steps so that it runs under ``torch.vmap``."""

from collections.abc import Callable

import torch
from torch import Tensor

from fedmeta.types import Params


def solve(product: Callable[[Params], Params], b: Params, steps: int) -> tuple[Params, Tensor]:
    """``x`` with ``A x = b`` for a symmetric positive definite ``A = product``, and ``|b - A x| / |b|``.

    Hestenes and Stiefel 1952, from ``x = 0``. Stops at the solution, and where it meets a direction of
    no positive curvature, in which ``A`` is not what it should be. If that is the first, ``x = b`` as in
    truncated Newton methods, and the residual is that of nothing solved, 1.
    """

    def times(vector: Tensor) -> Tensor:
        return _flat(product(_unflat(vector, b)))

    x, r = torch.zeros_like(_flat(b)), _flat(b)
    p, rr = r, r @ r
    start, going, moved = rr, rr > 0, rr < 0
    for _ in range(steps):
        image = times(p)
        curvature = p @ image
        going = going & (curvature > 0)
        moved = moved | going
        length = _divide(rr, curvature, going)
        x, r = x + length * p, r - length * image
        before, rr = rr, r @ r
        going = going & (rr > 0)
        p = r + _divide(rr, before, going) * p
    x = torch.where(moved, x, _flat(b))
    return _unflat(x, b), _divide(rr, start, start > 0).sqrt()


def _divide(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, a / torch.where(where, b, 1.0), 0.0)


def _flat(params: Params) -> Tensor:
    return torch.cat([value.reshape(-1) for value in params.values()])


def _unflat(vector: Tensor, like: Params) -> Params:
    pieces = torch.split(vector, [value.numel() for value in like.values()])
    return {
        name: piece.reshape(value.shape)
        for (name, value), piece in zip(like.items(), pieces, strict=True)
    }
