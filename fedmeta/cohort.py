"""A block of clients at work on one node: episodes, engine, and what goes back to the server."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fedmeta.client_state import ClientStates
from fedmeta.config import Experiment
from fedmeta.data.federation import Clients, Federation, Purpose
from fedmeta.engines import ENGINES, Engine
from fedmeta.errors import ConfigError
from fedmeta.evaluation import Scores, curve
from fedmeta.initial import first_params, objective
from fedmeta.learners import Learner
from fedmeta.objective import Objective
from fedmeta.params import finite, select
from fedmeta.replies import Replies, join, stacked
from fedmeta.types import Episode, Metrics, Params, Update

Found = TypeVar("Found")


@dataclass(frozen=True)
class Cohort:
    """The clients of one node with the parts that compute them. Pure: every call is a function."""

    federation: Federation
    objective: Objective
    learner: Learner
    engine: Engine
    private: Params
    """The params that never travel, as every client begins with them."""
    shapes: dict[str, torch.Size]
    """Of the params that travel."""
    seed: int
    rounds: int
    transductive: bool
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def open(cls, experiment: Experiment, trusted: bool = True) -> "Cohort":
        """Load the data and build the parts. Raises ConfigError or DataError.

        Not ``trusted``, the experiment may name no file to read params from.
        """
        device, dtype = experiment.engine.torch_device(), experiment.engine.torch_dtype
        travels, private = first_params(experiment, trusted)
        return cls(
            federation=experiment.data.open(experiment.seed, device, dtype),
            objective=objective(experiment),
            learner=experiment.learner,
            engine=ENGINES[experiment.engine.name].of(experiment.engine),
            private=_place(private, device, dtype),
            shapes={name: value.shape for name, value in travels.items()},
            seed=experiment.seed,
            rounds=experiment.rounds,
            transductive=experiment.evaluation.transductive,
            device=device,
            dtype=dtype,
        )

    def train(
        self, params: Params, clients: Sequence[int], round: int, states: ClientStates
    ) -> Replies:
        """Every client's delta. A client that raises is named in ``failures`` and harms nobody."""
        try:
            return self._train(self._place(params), clients, round, states)
        except ConfigError:  # not the client's fault
            raise
        except Exception as error:
            if len(clients) == 1:
                return Replies([], {}, {}, {clients[0]: _reason(error)})
            alone = [self.train(params, [client], round, states) for client in clients]
            return reduce(join, alone)

    def evaluate(
        self,
        params: Params,
        clients: Sequence[int],
        steps: int,
        episodes: int,
        states: ClientStates | None = None,
    ) -> Scores:
        """Scores of each client's query after 0..steps inner steps on its support.

        Given ``states``, the clients are such that took part, each with what it kept.
        """
        try:
            return self._evaluate(self._place(params), clients, steps, episodes, states)
        except ConfigError:
            raise
        except Exception as error:
            if len(clients) == 1:
                return Scores([], {}, {clients[0]: _reason(error)})
            alone = [self.evaluate(params, [client], steps, episodes, states) for client in clients]
            return reduce(_join_scores, alone)

    def _evaluate(
        self,
        params: Params,
        clients: Sequence[int],
        steps: int,
        episodes: int,
        states: ClientStates | None,
    ) -> Scores:
        kept: Params = {}
        if states and self.learner.keeps_state:
            kept = states.read(clients, self.rounds + 1, self.private, must=True)

        def scores(params: Params, each: tuple[Episode, Params]) -> Metrics:
            own, state = each
            begin = self.learner.personal(params | state) if states else params
            return curve(self.learner, self.objective, begin, own, steps, self.transductive)

        def score(ids: Clients, positions: Tensor) -> Metrics:
            drawn = self.federation.draw(ids, episodes, self.seed, "evaluate")
            return self.engine.map(scores, self.private | params, (drawn, select(kept, positions)))

        found = self._by_length(score, clients, "evaluate")
        return Scores(list(clients), {name: values.cpu() for name, values in found.items()})

    def _train(
        self, params: Params, clients: Sequence[int], round: int, states: ClientStates
    ) -> Replies:
        stateful = self.learner.keeps_state
        kept = states.read(clients, round, self.private) if stateful else {}

        def update(params: Params, each: tuple[Episode, Params]) -> Update:
            own, state = each
            progress = (round - 1) / self.rounds
            return self.learner.update(self.objective, params | state, own, progress)

        def train(ids: Clients, positions: Tensor) -> Update:
            drawn = self.federation.draw(ids, self.learner.draws, self.seed, "train", round)
            each = (drawn, select(kept, positions))
            return self.engine.map(update, self.private | params, each)

        delta, metrics, state = self._by_length(train, clients, "train")
        if stateful:
            usable = (finite(state) & finite(delta)).nonzero().flatten()
            states.write([clients[i] for i in usable], round, select(state, usable))
        examples = torch.as_tensor(self.federation.examples(np.asarray(clients)))
        columns = {name: values.cpu() for name, values in metrics.items()}
        deltas = {name: values.cpu() for name, values in delta.items()}
        return Replies(list(clients), deltas, {"examples": examples} | columns)

    def _by_length(
        self,
        compute: Callable[[Clients, Tensor], Found],
        clients: Sequence[int],
        purpose: Purpose,
    ) -> Found:
        """Clients whose episodes are equally long together, the results in the clients' order.

        So shards of unequal size need no padding, which would enter batch statistics.
        """
        ids = np.asarray(clients)
        lengths = self.federation.lengths(ids, purpose)
        blocks = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
        found = [compute(ids[block], torch.as_tensor(block)) for block in blocks]
        if len(found) == 1:
            return found[0]
        order = torch.as_tensor(np.argsort(np.concatenate(blocks)))
        joined: Found = tree_map(lambda *parts: torch.cat(parts)[order], *found)
        return joined

    def _place(self, params: Params) -> Params:
        return _place(params, self.device, self.dtype)


def _place(params: Params, device: torch.device, dtype: torch.dtype) -> Params:
    return {name: value.to(device, dtype) for name, value in params.items()}


def _join_scores(a: Scores, b: Scores) -> Scores:
    return Scores(a.clients + b.clients, stacked(a.curves, b.curves), a.failures | b.failures)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
