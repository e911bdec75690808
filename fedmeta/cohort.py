"""A block of clients at work on one node: episodes, engine, and what goes back to the server."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
import torch

from fedmeta.config import Experiment
from fedmeta.data.federation import Federation
from fedmeta.engines import ENGINES, Engine
from fedmeta.evaluation import Scores, curve
from fedmeta.learners import Learner
from fedmeta.objective import Objective
from fedmeta.params import concatenate, finite, select, weighted_sum
from fedmeta.types import Episode, Metrics, Params, Update


@dataclass(frozen=True)
class Replies:
    """What a block of clients sends back.

    ``columns`` has a row for every client that succeeded: its id, the size of its shard, its metrics.
    ``failures`` names the others with the reason.
    """

    clients: list[int]
    deltas: Params
    """``[clients, ...]``; or, where ``summed``, the one sum of weight times delta."""
    columns: Metrics
    failures: dict[int, str] = field(default_factory=dict)
    summed: bool = False


@dataclass(frozen=True)
class Cohort:
    """The clients of one node with the parts that compute them. Pure: every call is a function."""

    federation: Federation
    objective: Objective
    learner: Learner
    engine: Engine
    seed: int
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def open(cls, experiment: Experiment) -> "Cohort":
        """Load the data and build the parts. Raises ConfigError or DataError."""
        device, dtype = experiment.engine.torch_device(), experiment.engine.torch_dtype
        return cls(
            federation=experiment.data.open(experiment.seed, device, dtype),
            objective=objective(experiment),
            learner=experiment.learner,
            engine=ENGINES[experiment.engine.name].of(experiment.engine),
            seed=experiment.seed,
            device=device,
            dtype=dtype,
        )

    def train(self, params: Params, clients: Sequence[int], round: int) -> Replies:
        """Every client's delta. A client that raises is named in ``failures`` and harms nobody."""
        try:
            return self._train(self._place(params), clients, round)
        except Exception as error:
            if len(clients) == 1:
                return Replies([], {}, {}, {clients[0]: _reason(error)})
            return reduce(_join, [self.train(params, [client], round) for client in clients])

    def evaluate(self, params: Params, clients: Sequence[int], steps: int, episodes: int) -> Scores:
        """Scores of each client's query after 0..steps inner steps on its support."""
        try:
            return self._evaluate(self._place(params), clients, steps, episodes)
        except Exception as error:
            if len(clients) == 1:
                return Scores([], {}, {clients[0]: _reason(error)})
            alone = [self.evaluate(params, [client], steps, episodes) for client in clients]
            return reduce(_join_scores, alone)

    def _evaluate(
        self, params: Params, clients: Sequence[int], steps: int, episodes: int
    ) -> Scores:
        drawn = self.federation.draw(np.asarray(clients), episodes, self.seed, "evaluate")

        def scores(params: Params, episodes: Episode) -> Metrics:
            return curve(self.learner, self.objective, params, episodes, steps)

        found = self.engine.map(scores, params, drawn)
        return Scores(list(clients), {name: values.cpu() for name, values in found.items()})

    def _train(self, params: Params, clients: Sequence[int], round: int) -> Replies:
        ids = np.asarray(clients)
        episodes = self.federation.draw(ids, self.learner.draws, self.seed, "train", round)

        def update(params: Params, episodes: Episode) -> Update:
            return self.learner.update(self.objective, params, episodes)

        delta, metrics = self.engine.map(update, params, episodes)
        examples = torch.as_tensor(self.federation.examples(ids))
        columns = {name: values.cpu() for name, values in metrics.items()}
        deltas = {name: values.cpu() for name, values in delta.items()}
        return Replies(list(clients), deltas, {"examples": examples} | columns)

    def _place(self, params: Params) -> Params:
        return {name: value.to(self.device, self.dtype) for name, value in params.items()}


def objective(experiment: Experiment) -> Objective:
    """The model with its loss. Needs no data, so a server can build it."""
    data = experiment.data
    return Objective(experiment.model.build(data.input_shape, data.outputs), data.objective)


def drop_unusable(replies: Replies) -> Replies:
    """Move clients whose delta, metrics or shard size cannot be averaged to the failures.

    Of a sum only the whole can be judged: all of its clients stay, or none.
    """
    if not replies.clients:
        return replies
    if replies.summed:
        deltas = torch.stack(
            [torch.isfinite(total).all() for total in replies.deltas.values()]
        ).all()
    else:
        deltas = finite(replies.deltas)
    good = finite(replies.columns) & deltas
    good &= replies.columns["examples"] > 0
    if bool(good.all()):
        return replies
    if replies.summed:
        good = torch.zeros_like(good)
    bad = {
        client: "the delta, its metrics or the number of examples is not a usable number"
        for client, usable in zip(replies.clients, good.tolist(), strict=True)
        if not usable
    }
    return Replies(
        [client for client in replies.clients if client not in bad],
        replies.deltas if replies.summed else select(replies.deltas, good),
        select(replies.columns, good),
        replies.failures | bad,
        replies.summed,
    )


def summed(replies: Replies, weight_column: str) -> Replies:
    """One sum of the usable deltas, each times its ``weight_column`` (``one``: times 1)."""
    replies = drop_unusable(replies)
    deltas = weighted_sum(replies.deltas, column(replies, weight_column)) if replies.clients else {}
    return Replies(replies.clients, deltas, replies.columns, replies.failures, summed=True)


def column(replies: Replies, name: str) -> torch.Tensor:
    """A column as weights ``[clients]``; ``one`` is 1 for every client."""
    if name == "one":
        return torch.ones(len(replies.clients), dtype=torch.float64)
    return replies.columns[name].to(torch.float64)


def _join(a: Replies, b: Replies) -> Replies:
    return Replies(
        a.clients + b.clients,
        _joined(a.deltas, b.deltas),
        _joined(a.columns, b.columns),
        a.failures | b.failures,
    )


def _join_scores(a: Scores, b: Scores) -> Scores:
    return Scores(a.clients + b.clients, _joined(a.curves, b.curves), a.failures | b.failures)


def _joined(a: Params, b: Params) -> Params:
    """One stack after the other; a client that failed has none."""
    return concatenate([a, b]) if a and b else a or b


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
