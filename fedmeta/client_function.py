"""What one client computes, as values: two with the same settings are the same function."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from fedmeta.evaluation import curve
from fedmeta.learners import Learner
from fedmeta.measuring import measured
from fedmeta.objective import Objective
from fedmeta.types import Episode, Metrics, Params, Update


class Own(NamedTuple):
    """What one client has; of a block of them, everything ``[clients, ...]``."""

    episodes: Episode
    state: Params
    """What it kept of its private params; empty where nothing is kept."""
    examples: Tensor
    """The size of its shard."""


@dataclass(frozen=True)
class Train:
    """A client's round."""

    learner: Learner
    objective: Objective
    progress: float
    calls: int
    """How often this same function will be computed."""
    watched: bool = False
    """Whether the query loss before the update is wanted too, as ``loss_before``."""
    measure: bool = False
    """Whether all of ``measuring.py`` is wanted."""
    temperature: float = 1.0
    """Of the loss-sigmoid weight."""
    purpose: ClassVar[str] = "training"

    def __call__(self, params: Params, own: Own) -> Update:
        """The client's update, the size of its shard among the metrics."""
        begin = params | own.state
        update = self.learner.update(self.objective, begin, own.episodes, self.progress)
        metrics = {"examples": own.examples} | update.metrics
        if self.measure:
            begin = self.learner.personal(begin)
            metrics |= measured(self.learner, self.objective, begin, own.episodes, self.temperature)
        elif self.watched:
            episodes = (own.episodes.draw(index) for index in range(self.learner.draws))
            losses = [self.objective(begin, episode.query) for episode in episodes]
            metrics["loss_before"] = torch.stack(losses).mean()
        return update._replace(metrics=metrics)


@dataclass(frozen=True)
class TrainWeighted:
    """A client's delta times its weight, to be added up, and the rest of its update."""

    train: Train
    column: str
    """The metric that is the weight; ``one`` is 1."""
    purpose: ClassVar[str] = "training"

    @property
    def calls(self) -> int:
        """How often."""
        return self.train.calls

    def __call__(self, params: Params, own: Own) -> tuple[Params, Update]:
        """The weighted delta, and the update without it."""
        update = self.train(params, own)
        weight = 1.0 if self.column == "one" else update.metrics[self.column]
        delta = {name: weight * value for name, value in update.delta.items()}
        return delta, update._replace(delta={})


@dataclass(frozen=True)
class Score:
    """Scores of a client's query after 0..steps inner steps on its support, ``[steps + 1]``."""

    learner: Learner
    objective: Objective
    steps: int
    transductive: bool
    took_part: bool
    """Whether the client took part in training and begins with what it kept."""
    calls: int
    """How often this same function will be computed."""
    purpose: ClassVar[str] = "scoring"

    def __call__(self, params: Params, own: Own) -> Metrics:
        """The scores by name."""
        begin = self.learner.personal(params | own.state) if self.took_part else params
        return curve(
            self.learner, self.objective, begin, own.episodes, self.steps, self.transductive
        )
