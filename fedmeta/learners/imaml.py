"""Implicit MAML."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import torch
from torch import Tensor
from torch.func import grad, grad_and_value

from fedmeta.learners.base import Learner
from fedmeta.learners.checks import (
    at_least_one,
    not_negative,
    positive,
    stable,
)
from fedmeta.learners.conjugate_gradient import solve
from fedmeta.learners.curvature import hessian
from fedmeta.learners.inner_loop import Sgd, descend, last, norm, proximal
from fedmeta.objective import Objective
from fedmeta.types import Batch, Episode, Loss, Params, Update

SOLVED = 0.1
"""Relative residual of conjugate gradient above which a round is remarked on."""
LENGTHS = (1.0, 0.5, 0.25, 0.125, 0.0)
"""What the line search of a Newton step tries, in parts of the longest length."""


@dataclass(frozen=True)
class Imaml(Learner):
    """iMAML (Rajeswaran et al., NeurIPS 2019, Algorithms 1 and 2).

    Adapted params ``v`` solve ``min L_S(v) + lam / 2 |v - w|^2``; the delta is the implicit gradient
    ``(I + H / lam)^-1 grad L_Q(v)`` with the support's Hessian ``H`` at ``v``, by conjugate gradient.
    The path of the inner steps leaves no trace in it, nor in memory. The authors' code differs: it
    solves with ``(1 + damping) I + H / (lam + 10)``, and pulls back towards ``w`` once, at the end.
    """

    lam: float
    """Strength of the proximal term (lambda)."""
    inner_lr: float
    inner_steps: int
    inner: Literal["gradient_descent", "hessian_free"] = "gradient_descent"
    """How the inner problem is solved. ``hessian_free``: Newton steps by conjugate gradient with a
    line search (section 5 of the paper), of which ``inner_lr`` is the longest: 1 is Newton's."""
    cg_steps: int = 5
    damping: float = 0.0
    """Added to the diagonal of ``I + H / lam``; above 0 the gradient is no longer the paper's."""

    def __post_init__(self) -> None:
        positive(self, "lam", "inner_lr")
        not_negative(self, "damping")
        at_least_one(self, "inner_steps", "cg_steps")
        if self.inner == "gradient_descent":
            stable(self, "inner_lr", "lam")

    def steps(self, examples: int) -> int:
        """Inner steps, and one for each product with the Hessian."""
        inner = self.inner_steps * (1 + self.cg_steps if self.inner == "hessian_free" else 1)
        return inner + self.cg_steps

    @property
    def adaptation(self) -> int:
        """The inner steps."""
        return self.inner_steps

    def trajectory(
        self, loss: Objective, params: Params, support: Batch, steps: int
    ) -> Iterator[Params]:
        """The params after 0, 1, ..., ``steps`` steps on the support, held near where they began."""
        inner = proximal(loss, params, self.lam)
        if self.inner == "hessian_free":
            return self._newton(inner, params, support, steps)
        return descend(inner, params, repeat(support, steps), Sgd(self.inner_lr))

    def update(
        self, loss: Objective, params: Params, episodes: Episode, progress: float = 0.0
    ) -> Update:
        """The client's implicit gradient, its query loss, and how well both problems were solved."""
        support, query = episodes.draw(0)
        near = last(self.trajectory(loss, params, support, self.inner_steps))
        towards, value = grad_and_value(loss)(near, query)

        curvature = hessian(loss, near, support, "name: imaml")

        def operator(v: Params) -> Params:
            curved = curvature(v)
            return {n: (1 + self.damping) * v[n] + curved[n] / self.lam for n in v}

        gradient, residual = solve(operator, towards, self.cg_steps)
        slope = grad(proximal(loss, params, self.lam))(near, support)
        metrics = {"loss": value, "cg_residual": residual, "inner_gradient": norm(slope)}
        return Update(gradient, metrics)

    def remark(self, metrics: Mapping[str, float]) -> str | None:
        """Conjugate gradient that is far from a solution."""
        if (residual := metrics.get("cg_residual", 0.0)) <= SOLVED:
            return None
        return (
            f"conjugate gradient left a relative residual of {residual:.2g} after {self.cg_steps} "
            "steps: raise learner.cg_steps or learner.lam"
        )

    def _newton(self, inner: Loss, params: Params, support: Batch, steps: int) -> Iterator[Params]:
        yield params
        for _ in range(steps):
            slope = grad(inner)(params, support)
            direction, _ = solve(
                hessian(inner, params, support, "name: imaml"), slope, self.cg_steps
            )
            params = self._line_search(inner, params, direction, support)
            yield params

    def _line_search(self, loss: Loss, params: Params, direction: Params, batch: Batch) -> Params:
        """The best of a few lengths against the direction, not moving among them."""

        def at(length: Tensor) -> Params:
            return {name: w - length * direction[name] for name, w in params.items()}

        lengths = self.inner_lr * torch.tensor(LENGTHS).to(next(iter(params.values())))
        losses = torch.stack([loss(at(length), batch) for length in lengths])
        best = losses.nan_to_num(torch.inf).argmin(keepdim=True)
        return at(lengths[best][0])
