"""Scoring an initialisation on clients it has not seen: before adaptation and after every step."""

from dataclasses import dataclass, field

import torch

from fedmeta.learners import Learner
from fedmeta.objective import Objective
from fedmeta.types import Episode, Metrics, Params


@dataclass(frozen=True)
class Scores:
    """Scores by name (``loss``, ``accuracy``), each ``[clients, steps + 1]``, averaged over episodes."""

    clients: list[int]
    curves: Metrics
    failures: dict[int, str] = field(default_factory=dict)
    """Clients that could not be scored, with the reason."""


def curve(
    learner: Learner,
    objective: Objective,
    params: Params,
    episodes: Episode,
    steps: int,
    transductive: bool = True,
) -> Metrics:
    """One client's query scores after 0, 1, ..., ``steps`` inner steps on the support, ``[steps + 1]``.

    Not ``transductive``: a query example is seen with the support alone, so batch norm learns nothing
    from the other queries (Nichol et al. 2018, section 6.1).
    """
    draws = [
        [
            objective.scores(adapted, episode.query, None if transductive else episode.support.x)
            for adapted in learner.trajectory(objective, params, episode.support, steps)
        ]
        for episode in (episodes.draw(index) for index in range(len(episodes.support.y)))
    ]
    return {
        name: torch.stack(
            [torch.stack([scores[name] for scores in after]) for after in draws]
        ).mean(dim=0)
        for name in draws[0][0]
    }
