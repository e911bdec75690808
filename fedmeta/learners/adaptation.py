"""Which params the inner steps move, and at which rates."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor

from fedmeta.adapters import HEAD, NORM, feature_wise, low_rank, own
from fedmeta.errors import ConfigError
from fedmeta.types import Params

KEYWORDS = ("all", "head", "body", "norm", "lora", "film")
LearnedRates = Literal["none", "scalar", "per_layer", "per_layer_per_step", "per_parameter"]


def check_adapt(adapt: Any) -> None:
    """Refuse what is neither a keyword nor a list of patterns."""
    patterns = isinstance(adapt, list) and adapt and all(isinstance(p, str) for p in adapt)
    if not patterns and adapt not in KEYWORDS:
        raise ConfigError(
            f"learner.adapt must be one of {', '.join(KEYWORDS)} or a list of patterns such as "
            f"[head.*, block3.*], got {adapt!r}"
        )


def with_adapters(adapt: Any, params: Params, rank: int, generator: torch.Generator) -> Params:
    """The params, and the adapters that ``adapt`` names. Raises ConfigError where no layer takes any."""
    if adapt not in ("lora", "film"):
        return params
    adapters = low_rank(params, rank, generator) if adapt == "lora" else feature_wise(params)
    if not adapters:
        raise ConfigError(f"learner.adapt: {adapt} finds no layer to adapt; {_have(params)}")
    return params | adapters


def adapted(adapt: Any, names: Iterable[str]) -> list[str]:
    """The names that the inner steps move. Raises ConfigError where a choice matches none.

    ``lora`` and ``film`` move their own numbers and the head's: the classes of a new client are new.
    """
    names = [name for name in names if not name.startswith("rate/")]
    model = own(dict.fromkeys(names))  # type: ignore[arg-type]
    head = [name for name in model if fnmatchcase(name, HEAD)]
    if adapt in ("head", "body", "lora", "film") and not head:
        raise ConfigError(f"learner: {adapt} needs a head, params named {HEAD}; {_have(model)}")
    if adapt in ("lora", "film"):
        return [name for name in names if name.startswith(f"{adapt}/")] + head
    if adapt == "body":
        return [name for name in model if name not in head]
    patterns = {"all": ["*"], "head": [HEAD], "norm": [NORM]}.get(str(adapt), adapt)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in model):
            raise ConfigError(f"learner.adapt: {pattern!r} matches no param; {_have(model)}")
    return [name for name in model if any(fnmatchcase(name, p) for p in patterns)]


def _have(names: Collection[str]) -> str:
    return f"the model has {', '.join(names)}"


def first_rates(kind: LearnedRates, lr: float, fast: Params, steps: int) -> Params:
    """Rates that are learned, all ``lr`` at the start, as params ``rate/...``.

    One in all; one per tensor; one per tensor and step, ``[steps]`` (LSLR of Antoniou et al. 2019);
    or one per number, of the tensor's shape (Meta-SGD, Li et al. 2017).
    """
    if kind == "none":
        return {}
    if kind == "scalar":
        return {"rate/all": next(iter(fast.values())).new_tensor(lr)}
    shapes: dict[str, Any] = {"per_layer": (), "per_layer_per_step": (steps,)}
    return {
        f"rate/{name}": value.new_full(shapes.get(kind, value.shape), lr)
        for name, value in fast.items()
    }


@dataclass(frozen=True)
class RatedSgd:
    """``w - rate g`` with the learned rates; its state is the number of steps taken.

    Beyond the steps that were trained, rates per step go on with the last.
    """

    kind: LearnedRates
    params: Params

    def init(self, params: Params) -> int:
        """No step taken."""
        return 0

    def step(self, params: Params, grads: Params, state: int) -> tuple[Params, int]:
        """One step downhill."""
        return {n: w - self._rate(n, state) * grads[n] for n, w in params.items()}, state + 1

    def _rate(self, name: str, step: int) -> Tensor:
        rate = self.params["rate/all" if self.kind == "scalar" else f"rate/{name}"]
        return rate[min(step, len(rate) - 1)] if self.kind == "per_layer_per_step" else rate
