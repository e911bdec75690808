"""The server's optimiser: any class of ``torch.optim``, fed the aggregated delta as the gradient."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from fedmeta.errors import ConfigError
from fedmeta.types import Params

Schedule = Literal["constant", "linear", "cosine"]
State = dict[str, dict[str, Tensor]]
"""What the optimiser remembers of each param, by name; empty before the first step."""


class Yogi(Optimizer):
    """``v <- v - (1 - beta2) g^2 sign(v - g^2)``, ``w <- w - lr m / (sqrt(v) + tau)``.

    Reddi et al., ICLR 2021, Algorithm 2 (FedYogi): no bias correction, v starts at tau^2.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-3,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas) or not eps > 0:
            raise ValueError(f"betas must be in [0, 1) and eps > 0, got {betas} and {eps}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every param that has a gradient."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._step(param, param.grad, group)

    def _step(self, param: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        (beta1, beta2), tau, state = group["betas"], group["eps"], self.state[param]
        if not state:
            state["m"] = torch.zeros_like(param)
            state["v"] = torch.full_like(param, tau**2)
        m, v = state["m"], state["v"]
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.sub_((1 - beta2) * g**2 * torch.sign(v - g**2))
        param.sub_(group["lr"] * m / (v.sqrt() + tau))


@dataclass(frozen=True)
class ServerOptimizer:
    """A torch optimiser as a pure function of (params, delta, state, progress)."""

    name: str
    """A class of ``torch.optim``, or ``Yogi``."""
    lr: float
    options: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule = "constant"
    """How the rate falls over the run: not at all, linearly to 0, or along half a cosine to 0."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < float("inf"):
            raise ConfigError(f"strategy.lr must be a finite number > 0, got {self.lr!r}")
        self._class()
        probe = {"probe": torch.zeros(2)}
        try:
            self.step(probe, {"probe": torch.ones(2)}, {}, 0.0)
        except Exception as e:  # torch.optim checks options with errors of every kind
            raise ConfigError(
                f"strategy.optimizer {self.name!r} cannot be used with {self.options}: {e}"
            ) from e

    def step(
        self, params: Params, delta: Params, state: State, progress: float
    ) -> tuple[Params, State]:
        """New params and state; ``progress`` in [0, 1) is how much of the run lies behind."""
        leaves = {name: value.clone() for name, value in params.items()}
        optimizer = self._class()(list(leaves.values()), lr=self.lr, **self.options)
        names = list(leaves)
        if state:  # torch counts params, we name them: files keep no order
            owned = {
                position: {key: value.clone() for key, value in state[name].items()}
                for position, name in enumerate(names)
                if name in state
            }
            optimizer.load_state_dict({**optimizer.state_dict(), "state": owned})
        for group in optimizer.param_groups:
            group["lr"] = self.lr * self._factor(progress)
        for name, leaf in leaves.items():
            leaf.grad = delta[name].clone()  # some optimisers write into it
        optimizer.step()
        for leaf in leaves.values():
            leaf.grad = None
        return leaves, {
            names[position]: {k: torch.as_tensor(v) for k, v in memory.items() if v is not None}
            for position, memory in optimizer.state_dict()["state"].items()
        }

    def _class(self) -> Callable[..., Optimizer]:
        found = Yogi if self.name == "Yogi" else getattr(torch.optim, self.name, None)
        if not (isinstance(found, type) and issubclass(found, Optimizer)) or found is Optimizer:
            raise ConfigError(
                f"strategy.optimizer must be Yogi or a class of torch.optim, got {self.name!r}"
            )
        return found

    def _factor(self, progress: float) -> float:
        if self.schedule == "linear":
            return 1 - progress
        if self.schedule == "cosine":
            return float(
                (1 + torch.cos(torch.tensor(torch.pi * progress, dtype=torch.float64))) / 2
            )
        return 1.0
