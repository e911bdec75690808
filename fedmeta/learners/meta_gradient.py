"""The gradient of losses after inner steps, looked at from the params before them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import grad_and_value, vjp

from fedmeta.types import Params

Step = Callable[[Params, Params, int], Params]
"""From all params, the adapting ones and the number of the step to the adapting ones after it."""
Query = Callable[[Params, Params], Tensor]
"""From all params and the adapting ones to the query loss."""


def unrolled(
    step: Step, query: Query, params: Params, names: Sequence[str], weights: Sequence[float]
) -> tuple[Params, Tensor]:
    """Gradient and value of ``sum_j weights[j] query(w_j)`` over the inner steps ``j = 0, 1, ..., k``.

    ``names`` are the adapting params. The graph of all steps is kept until the end.
    """

    def total(params: Params) -> Tensor:
        fast, terms = {name: params[name] for name in names}, []
        for number, weight in enumerate(weights):
            fast = step(params, fast, number - 1) if number else fast
            if weight:
                terms.append(weight * query(params, fast))
        return torch.stack(terms).sum()

    grads, value = grad_and_value(total)(params)
    return grads, value


def recomputed(
    step: Step, query: Query, params: Params, names: Sequence[str], weights: Sequence[float]
) -> tuple[Params, Tensor]:
    """The same, keeping no graph but that of one inner step (checkpointing of the inner loop).

    Walks forwards once to remember ``w_0 .. w_k`` and backwards once, where every step is computed
    again and its adjoint applied: memory for k copies of the adapting params and one step, for about
    one more gradient evaluation per step.
    """
    path = [{name: params[name] for name in names}]
    for number in range(len(weights) - 1):
        path.append(step(params, path[-1], number))
    total = {name: torch.zeros_like(value) for name, value in params.items()}
    towards = {name: torch.zeros_like(value) for name, value in path[0].items()}
    values = []
    for number in reversed(range(len(weights))):
        if weights[number]:
            (direct, here), value = grad_and_value(query, argnums=(0, 1))(params, path[number])
            total = _plus(total, direct, weights[number])
            towards = _plus(towards, here, weights[number])
            values.append(weights[number] * value)
        if number:
            _, adjoint = vjp(  # type: ignore[misc]
                lambda params, fast, number=number: step(params, fast, number - 1),
                params,
                path[number - 1],
            )
            through, towards = adjoint(towards)
            total = _plus(total, through, 1.0)
    return total | _plus({name: total[name] for name in names}, towards, 1.0), torch.stack(
        values
    ).sum()


def _plus(a: Params, b: Params, weight: float) -> Params:
    return {name: value + weight * b[name] for name, value in a.items()}
