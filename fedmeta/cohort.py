"""A block of clients at work on one node: episodes, engine, and what goes back to the server."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

import numpy as np
import torch
from torch.utils._pytree import tree_map

from fedmeta.client_function import Own, Score, Train, TrainWeighted
from fedmeta.client_state import ClientStates
from fedmeta.config import Experiment
from fedmeta.data.federation import Clients, Federation, Purpose
from fedmeta.engines import ENGINES, Engine
from fedmeta.engines.blocks import add
from fedmeta.engines.blocks import join as joined
from fedmeta.errors import ConfigError
from fedmeta.evaluation import Scores
from fedmeta.initial import first_params, objective
from fedmeta.learners import Learner
from fedmeta.objective import Objective
from fedmeta.params import finite, select
from fedmeta.replies import Replies, join, stacked, summed, usable
from fedmeta.types import Params

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
    evaluations: int
    """How often clients are scored in all rounds."""
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
            evaluations=experiment.rounds // experiment.evaluation.every + 1,
            transductive=experiment.evaluation.transductive,
            device=device,
            dtype=dtype,
        )

    def train(
        self,
        params: Params,
        clients: Sequence[int],
        round: int,
        states: ClientStates,
        weight_column: str = "",
    ) -> Replies:
        """Every client's delta; or, with a ``weight_column``, one sum of them, each times its weight.

        A client that raises, or whose numbers are not usable, is named in ``failures`` and harms
        nobody.
        """
        try:
            if weight_column and (
                whole := self._total(params, clients, round, states, weight_column)
            ):
                return whole
            replies = self._each(params, clients, round, states)
        except ConfigError:  # not the client's fault
            raise
        except Exception as error:
            if len(clients) == 1:
                replies = Replies([], {}, {}, {clients[0]: _reason(error)})
            else:
                replies = reduce(join, [self.train(params, [c], round, states) for c in clients])
        return summed(replies, weight_column) if weight_column else replies

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
        blocks = self._blocks(clients, "evaluate")
        score = Score(
            self.learner,
            self.objective,
            steps,
            self.transductive,
            took_part=states is not None,
            calls=self.evaluations if len(blocks) == 1 else 1,
        )
        owned = [self._own(clients, block, kept, episodes, "evaluate") for block in blocks]
        found = [self.engine.map(score, self.private | params, own) for own in owned]
        return Scores(list(clients), _cpu(_in_order(found, blocks)))

    def _total(
        self,
        params: Params,
        clients: Sequence[int],
        round: int,
        states: ClientStates,
        weight_column: str,
    ) -> Replies | None:
        """One sum over all clients, formed where they are computed; None if one would spoil it."""
        blocks, owned = self._training(clients, round, states)
        function = TrainWeighted(self._train(round, len(blocks)), weight_column)
        begin = self.private | self._place(params)
        found = [self.engine.total(function, begin, own) for own in owned]
        delta = add([weighted for weighted, _ in found])
        _, metrics, state = _in_order([rest for _, rest in found], blocks)
        replies = Replies(list(clients), _cpu(delta), _cpu(metrics), summed=True)
        if not usable(replies).all() or not all(value.isfinite().all() for value in state.values()):
            return None
        if state:
            states.write(clients, round, state)
        return replies

    def _each(
        self, params: Params, clients: Sequence[int], round: int, states: ClientStates
    ) -> Replies:
        blocks, owned = self._training(clients, round, states)
        begin, train = self.private | self._place(params), self._train(round, len(blocks))
        found = [self.engine.map(train, begin, own) for own in owned]
        delta, metrics, state = _in_order(found, blocks)
        if state:
            kept = (finite(state) & finite(delta)).nonzero().flatten()
            states.write([clients[i] for i in kept], round, select(state, kept))
        return Replies(list(clients), _cpu(delta), _cpu(metrics))

    def _train(self, round: int, blocks: int) -> Train:
        """Of episodes of many lengths every round has others: no block comes twice."""
        behind = (round - 1) / self.rounds
        if behind < self.learner.annealed_until:
            return Train(self.learner, self.objective, behind, calls=1)
        return Train(self.learner, self.objective, 1.0, self.rounds if blocks == 1 else 1)

    def _training(
        self, clients: Sequence[int], round: int, states: ClientStates
    ) -> tuple[list[Clients], list[Own]]:
        """The clients in blocks, and what they train with."""
        kept = states.read(clients, round, self.private) if self.learner.keeps_state else {}
        blocks = self._blocks(clients, "train")
        draws = self.learner.draws
        return blocks, [self._own(clients, block, kept, draws, "train", round) for block in blocks]

    def _own(
        self,
        clients: Sequence[int],
        block: Clients,
        kept: Params,
        draws: int,
        purpose: Purpose,
        *address: int,
    ) -> Own:
        """What the clients at the positions of a block have."""
        ids = np.asarray(clients)[block]
        return Own(
            self.federation.draw(ids, draws, self.seed, purpose, *address),
            select(kept, torch.as_tensor(block)),
            torch.as_tensor(self.federation.examples(ids)).to(self.device, self.dtype),
        )

    def _blocks(self, clients: Sequence[int], purpose: Purpose) -> list[Clients]:
        """Positions of the clients, those whose episodes are equally long together.

        So shards of unequal size need no padding, which would enter batch statistics.
        """
        lengths = self.federation.lengths(np.asarray(clients), purpose)
        return [np.flatnonzero(lengths == length) for length in np.unique(lengths)]

    def _place(self, params: Params) -> Params:
        return _place(params, self.device, self.dtype)


def _place(params: Params, device: torch.device, dtype: torch.dtype) -> Params:
    return {name: value.to(device, dtype) for name, value in params.items()}


def _cpu(values: Params) -> Params:
    return {name: value.cpu() for name, value in values.items()}


def _in_order(found: Sequence[Found], blocks: Sequence[Clients]) -> Found:
    """The results of all blocks, in the order in which the clients were named."""
    if len(found) == 1:
        return found[0]
    order = torch.as_tensor(np.argsort(np.concatenate(blocks)))
    ordered: Found = tree_map(lambda leaf: leaf[order], joined(found))
    return ordered


def _join_scores(a: Scores, b: Scores) -> Scores:
    return Scores(a.clients + b.clients, stacked(a.curves, b.curves), a.failures | b.failures)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
