"""Prototypical networks."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor
from torch.func import grad_and_value

from fedmeta.errors import ConfigError
from fedmeta.learners.adaptation import adapted
from fedmeta.learners.base import Learner
from fedmeta.learners.checks import at_least_one
from fedmeta.learners.inner_loop import local_steps
from fedmeta.objective import Objective
from fedmeta.types import Batch, Episode, Metrics, Params, Update

WEIGHT, BIAS = "head.weight", "head.bias"
ABSENT = -1e9
"""Bias of a class that the support has no example of."""


@dataclass(frozen=True)
class ProtoNet(Learner):
    """Prototypical networks (Snell, Swersky and Zemel, NeurIPS 2017, Algorithm 1).

    A class is the mean ``c`` of its support features, and a query belongs to the nearest in squared
    Euclidean distance. That is a linear head with weights ``2 c`` and bias ``-|c|^2`` (section 2.4),
    so adapting sets the head, in one step, and the head neither trains nor travels.
    """

    episodes: int = 1
    """Episodes per round; their gradients are averaged."""

    def __post_init__(self) -> None:
        at_least_one(self, "episodes")

    @property
    def draws(self) -> int:
        """Episodes that one update consumes."""
        return self.episodes

    def init(self, loss: Objective, params: Params, generator: torch.Generator) -> Params:
        """The model's params. Raises ConfigError where its head or the loss is not of the kind."""
        if loss.kind != "cross_entropy":
            raise ConfigError(f"learner.name: protonet needs classes, the data has {loss.kind}")
        if sorted(adapted("head", params)) != [BIAS, WEIGHT] or params[WEIGHT].ndim != 2:
            raise ConfigError("learner.name: protonet needs a linear head with a bias")
        return params

    def private(self, names: Collection[str]) -> frozenset[str]:
        """The head: every client sets its own."""
        return frozenset(adapted("head", names))

    @property
    def adaptation(self) -> int:
        """Prototypes take the place of a step."""
        return 1

    def trajectory(
        self, loss: Objective, params: Params, support: Batch, steps: int
    ) -> Iterator[Params]:
        """The params with a head of zeros, and then with the prototypes of the support."""
        yield params | {WEIGHT: 0 * params[WEIGHT], BIAS: 0 * params[BIAS]}
        yield from repeat(params | prototypes(loss, params, support), steps)

    def update(
        self, loss: Objective, params: Params, episodes: Episode, progress: float = 0.0
    ) -> Update:
        """The gradient of the query loss in the body, and that loss."""
        head = {name: params[name] for name in self.private(params)}

        def gradient(body: Params, episode: Episode) -> tuple[Params, Metrics]:
            def query_loss(body: Params) -> Tensor:
                every = body | head
                return loss(every | prototypes(loss, every, episode.support), episode.query)

            grads, value = grad_and_value(query_loss)(body)
            return grads, {"loss": value}

        body = {name: w for name, w in params.items() if name not in head}
        return local_steps(gradient, body, episodes, steps=1, lr=1.0)


def prototypes(loss: Objective, params: Params, support: Batch) -> Params:
    """The head whose logits are ``|x|^2 - |x - c|^2`` for the mean ``c`` of each class's features ``x``."""
    classes, features = params[WEIGHT].shape
    through = torch.eye(features).to(params[WEIGHT])  # a head that hands the features on
    found = loss.predict(params | {WEIGHT: through, BIAS: through.new_zeros(features)}, support.x)
    members = (support.y[:, None] == torch.arange(classes, device=support.y.device)).to(found)
    counts = members.sum(dim=0)
    centres = members.mT @ found / counts.clamp(min=1)[:, None]
    distances = (centres**2).sum(dim=1)
    return {WEIGHT: 2 * centres, BIAS: torch.where(counts > 0, -distances, ABSENT)}
