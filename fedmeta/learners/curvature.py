"""Products with the Hessian of a loss, exact and from differences."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vjp

from fedmeta.learners.checks import second_derivatives
from fedmeta.learners.inner_loop import norm
from fedmeta.types import Batch, Loss, Params


def hessian(loss: Loss, params: Params, batch: Batch, asked_by: str) -> Callable[[Params], Params]:
    """The product of the loss's Hessian at the params with any ``v``.

    ``asked_by`` is the setting that needs second derivatives, for the error where there are none.
    """
    with second_derivatives(asked_by):
        _, adjoint = vjp(lambda params: grad(loss)(params, batch), params)  # type: ignore[misc]

    def product(v: Params) -> Params:
        with second_derivatives(asked_by):
            (found,) = adjoint(v)  # the Hessian is its own transpose
        return dict(found)

    return product


def difference_quotient(loss: Loss, params: Params, batch: Batch, v: Params, step: float) -> Params:
    """The Hessian times ``v`` from two gradients, each a distance of ``step`` along ``v`` away.

    Exact on quadratics for any step.
    """
    length = norm(v)
    scale = step / torch.where(length > 0, length, 1.0)

    def gradient(side: Tensor) -> Params:
        shifted = {name: w + side * v[name] for name, w in params.items()}
        found: Params = grad(loss)(shifted, batch)
        return found

    ahead, behind = gradient(scale), gradient(-scale)
    return {name: (ahead[name] - behind[name]) / (2 * scale) for name in params}
