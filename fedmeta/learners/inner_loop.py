"""Adaptation on a client: a few steps of gradient descent that the outer gradient can look through."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.func import grad

from fedmeta.types import Batch, Episode, Loss, Metrics, Params, Update


class InnerOptimizer(Protocol):
    """A functional optimiser: its state is a value, and begins anew in every episode."""

    def init(self, params: Params) -> Any:
        """The state before the first step."""

    def step(self, params: Params, grads: Params, state: Any) -> tuple[Params, Any]:
        """The params and the state after one step."""


@dataclass(frozen=True)
class Sgd:
    """``w - lr g``."""

    lr: float

    def init(self, params: Params) -> None:
        """Nothing to remember."""

    def step(self, params: Params, grads: Params, state: None) -> tuple[Params, None]:
        """One step downhill."""
        return {name: w - self.lr * grads[name] for name, w in params.items()}, None


class Moments(NamedTuple):
    """Adam's memory: running mean of squared gradients, and the number of steps taken."""

    square: Params
    steps: int


@dataclass(frozen=True)
class RmsAdam:
    """Adam with beta1 = 0, Reptile's inner optimiser (Nichol et al. 2018, section 6.1), bias corrected."""

    lr: float
    beta2: float = 0.999
    eps: float = 1e-8

    def init(self, params: Params) -> Moments:
        """Zero moments."""
        return Moments({name: torch.zeros_like(w) for name, w in params.items()}, 0)

    def step(self, params: Params, grads: Params, state: Moments) -> tuple[Params, Moments]:
        """One step of ``lr g / (sqrt(v) + eps)``."""
        steps = state.steps + 1
        square = {
            name: self.beta2 * v + (1 - self.beta2) * grads[name] ** 2
            for name, v in state.square.items()
        }
        unbias = 1 - self.beta2**steps
        stepped = {
            name: w - self.lr * grads[name] / ((square[name] / unbias).sqrt() + self.eps)
            for name, w in params.items()
        }
        return stepped, Moments(square, steps)


def descend(
    loss: Loss,
    params: Params,
    batches: Iterable[Batch],
    optimizer: InnerOptimizer,
    order: Literal[1, 2] = 2,
) -> Iterator[Params]:
    """Yield ``w_0 = params, w_1, w_2, ...``, one step of the optimiser for each batch.

    ``order=1`` takes the inner gradients as constants, so an outer gradient is first order.
    """
    state = optimizer.init(params)
    yield params
    for batch in batches:
        params, state = take_step(loss, params, batch, optimizer, state, order)
        yield params


def take_step(
    loss: Loss,
    params: Params,
    batch: Batch,
    optimizer: InnerOptimizer,
    state: Any,
    order: Literal[1, 2] = 2,
) -> tuple[Params, Any]:
    """The params and the optimiser's state after one step on the batch."""
    grads = grad(loss)(params, batch)
    if order == 1:
        grads = {name: g.detach() for name, g in grads.items()}
    return optimizer.step(params, grads, state)


def beside(fixed: Params, loss: Loss) -> Loss:
    """The loss as a function of some params, with the others held where they are."""
    return lambda params, batch: loss(fixed | params, batch)


def proximal(loss: Loss, anchor: Params, strength: float) -> Loss:
    """``loss(w) + strength / 2 |w - anchor|^2``."""

    def penalised(params: Params, batch: Batch) -> Tensor:
        distances = [((w - anchor[name]) ** 2).sum() for name, w in params.items()]
        return loss(params, batch) + strength / 2 * torch.stack(distances).sum()

    return penalised


def last(steps: Iterable[Params]) -> Params:
    """The final element of a non-empty trajectory."""
    *_, final = steps
    return final


def every_example(episode: Episode) -> Batch:
    """Support and query as one training set, for learners that do not hold a query set back."""
    support, query = episode
    return Batch(torch.cat([support.x, query.x]), torch.cat([support.y, query.y]))


def minibatches(batch: Batch, size: int, count: int) -> Iterator[Batch]:
    """``count`` minibatches of ``size``, running through the examples and on from the first again.

    All are full: batch norm has no use for a last example alone. Datasets order the examples of an
    episode at random, class by class in turn, so consecutive examples are a stratified sample.
    """
    total = len(batch.y)
    if size >= total:
        yield from repeat(batch, count)
        return
    for step in range(count):
        chosen = torch.arange(step * size, (step + 1) * size, device=batch.y.device) % total
        yield Batch(batch.x[chosen], batch.y[chosen])


def local_steps(
    direction: Callable[[Params, Episode], tuple[Params, Metrics]],
    params: Params,
    episodes: Episode,
    steps: int,
    lr: float,
) -> Update:
    """``steps`` outer steps on the client, each along the mean direction of its equal share of episodes.

    With one step of rate 1 the delta is the mean direction itself, which is what server
    optimisers take as a gradient.
    """
    start, metrics = params, []
    share = len(episodes.support.y) // steps
    for step in range(steps):
        found = [direction(params, episodes.draw(step * share + i)) for i in range(share)]
        params = {
            name: w - lr * _mean([towards[name] for towards, _ in found])
            for name, w in params.items()
        }
        metrics += [m for _, m in found]
    means = {name: _mean([m[name] for m in metrics]) for name in metrics[0]}
    return Update(difference(start, params), means)


def difference(before: Params, after: Params) -> Params:
    """The delta of a client: ``before - after``, for the names in ``after``."""
    return {name: before[name] - w for name, w in after.items()}


def norm(params: Params) -> Tensor:
    """Euclidean length of all params together."""
    return torch.stack([(value**2).sum() for value in params.values()]).sum().sqrt()


def _mean(values: list[Tensor]) -> Tensor:
    return sum(values[1:], start=values[0]) / len(values)
