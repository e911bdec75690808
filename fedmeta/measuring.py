"""How well the params that a client received serve it: what a server may weigh its delta by."""

import torch
from torch import Tensor

from fedmeta.learners import Learner
from fedmeta.objective import Objective
from fedmeta.types import Episode, Metrics, Params

NEWTON = 5
"""Steps that find the fixed point: each doubles the digits, and four reach those of float64."""


def measured(
    learner: Learner,
    objective: Objective,
    params: Params,
    episodes: Episode,
    temperature: float = 1.0,
) -> Metrics:
    """Scores of a client at the params it received, means over its episodes.

    ``loss_before`` and ``accuracy_before``: of the query, before adaptation. ``loss_after`` and
    ``accuracy_after``: of the query, after as many steps on the support as training takes; this is the
    client's part of the meta-objective. ``support_loss``: of the support, after them. ``alpha``: the
    loss-sigmoid weight of all its query examples.
    """
    rows, losses, counts = list[Metrics](), list[Tensor](), list[Tensor]()
    for draw in range(len(episodes.support.y)):
        support, query = episodes.draw(draw)
        path = list(learner.trajectory(objective, params, support, learner.adaptation))
        output = objective.predict(path[-1], query.x)
        before, after = objective.scores(path[0], query), objective.judge(output, query.y)
        row = {f"{name}_before": value for name, value in before.items()}
        row |= {f"{name}_after": value for name, value in after.items()}
        rows.append(row | {"support_loss": objective(path[-1], support)})
        losses.append(objective.losses(output, query.y))
        counts.append(objective.counts(query.y).to(output.dtype))
    means = {name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]}
    return means | {"alpha": loss_sigmoid(torch.cat(losses), torch.cat(counts), temperature)}


def loss_sigmoid(losses: Tensor, counts: Tensor, temperature: float = 1.0) -> Tensor:
    """The only root of ``alpha = mean_i sigmoid(alpha L_i / temperature)``, for losses >= 0: in [1/2, 1).

    Where losses are so large that no number of their dtype lies between, it is 1.

    Newton's method from 1: the right side is concave in alpha with a slope below 1/2 at the root, so
    the steps come down to it and never pass it.
    """
    scaled, shares = losses / temperature, counts / counts.sum()
    alpha = torch.ones((), dtype=losses.dtype, device=losses.device)
    for _ in range(NEWTON):
        value = torch.sigmoid(alpha * scaled)
        slope = (shares * value * (1 - value) * scaled).sum()
        alpha = alpha - (alpha - (shares * value).sum()) / (1 - slope)
    return alpha.clamp(0.5, 1)  # shares need not sum to 1 to the last bit
