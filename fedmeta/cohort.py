"""A block of clients at work on one node: episodes, engine, and what goes back to the server."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch.utils._pytree import tree_map

from fedmeta.attack import with_attackers
from fedmeta.client_function import Score, Train, TrainWeighted
from fedmeta.client_state import ClientStates
from fedmeta.config import Experiment
from fedmeta.data.federation import Federation, Purpose
from fedmeta.data.shard import fit, read_shards
from fedmeta.engines import ENGINES, Engine
from fedmeta.engines.blocks import add
from fedmeta.engines.blocks import join as joined
from fedmeta.errors import ConfigError, RefusedError
from fedmeta.evaluation import Scores
from fedmeta.initial import first_params, objective
from fedmeta.learners import Learner
from fedmeta.objective import Objective
from fedmeta.params import finite, select
from fedmeta.replies import Replies, join, stacked, summed, usable
from fedmeta.stacks import Drawing, Function, Stack, harmless
from fedmeta.types import Metrics, Params

Found = TypeVar("Found")


@dataclass(frozen=True)
class Cohort:
    """The clients of one node with the parts that compute them. Pure: every call is a function."""

    drawing: Drawing
    objective: Objective
    learner: Learner
    engine: Engine
    private: Params
    """The params that never travel, as every client begins with them."""
    shapes: dict[str, torch.Size]
    """Of the params that travel."""
    rounds: int
    trainings: int
    """How often clients will be trained by this process."""
    evaluations: int
    """How often they will be scored by it."""
    transductive: bool
    device: torch.device
    dtype: torch.dtype
    watched: bool = False
    """Whether the loss before training is wanted too."""
    measure: bool = False
    """Whether clients say how well the params that they receive serve them."""
    temperature: float = 1.0
    """Of the loss-sigmoid weight."""

    @classmethod
    def open(
        cls,
        experiment: Experiment,
        trusted: bool = True,
        shard: Path | None = None,
        watched: bool = False,
    ) -> "Cohort":
        """Load the data and build the parts. Raises ConfigError or DataError.

        Not ``trusted``, the experiment may name no file or folder to read. With a ``shard``, a file or
        a folder of them, the clients are those whose shards these are, and nothing that would pay off
        only later is done: a device answers every message in a new process.
        """
        again = shard is None
        device, dtype = experiment.engine.torch_device(), experiment.engine.torch_dtype
        travels, private = first_params(experiment, trusted)
        federation = _federation(experiment, device, dtype, trusted, shard)
        return cls(
            drawing=Drawing(federation, experiment.seed, device, dtype),
            objective=objective(experiment),
            learner=experiment.learner,
            engine=ENGINES[experiment.engine.name].of(experiment.engine),
            private=_place(private, device, dtype),
            shapes={name: value.shape for name, value in travels.items()},
            rounds=experiment.rounds,
            trainings=experiment.rounds if again else 1,
            evaluations=experiment.rounds // experiment.evaluation.every + 1 if again else 1,
            transductive=experiment.evaluation.transductive,
            device=device,
            dtype=dtype,
            watched=watched,
        )

    @property
    def federation(self) -> Federation:
        """The clients, and what they hold."""
        return self.drawing.federation

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
        except (ConfigError, RefusedError):  # not the client's fault
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
        except (ConfigError, RefusedError):
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
        score = Score(
            self.learner,
            self.objective,
            steps,
            self.transductive,
            took_part=states is not None,
            calls=self.evaluations,
        )
        begin = self.private | params
        stacks = self._stacks(score, begin, clients, kept, episodes, "evaluate")
        found = [self.engine.map(self._of(score, s, stacks), begin, s.own) for s in stacks]
        return Scores(list(clients), _cpu(_in_order(found, stacks)))

    def _total(
        self,
        params: Params,
        clients: Sequence[int],
        round: int,
        states: ClientStates,
        weight_column: str,
    ) -> Replies | None:
        """One sum over all clients, formed where they are computed; None if one would spoil it."""
        begin, train = self.private | self._place(params), self._train(round)
        stacks = self._training(train, begin, clients, round, states)
        found = [
            self.engine.total(
                TrainWeighted(self._of(train, stack, stacks), weight_column), begin, stack.own
            )
            for stack in stacks
        ]
        delta = add([weighted for weighted, _ in found])
        _, metrics, state = _in_order([rest for _, rest in found], stacks)
        columns = _cpu(metrics) | self._steps(clients)
        replies = Replies(list(clients), _cpu(delta), columns, summed=True)
        if not usable(replies).all() or not all(value.isfinite().all() for value in state.values()):
            return None
        if state:
            states.write(clients, round, state)
        return replies

    def _each(
        self, params: Params, clients: Sequence[int], round: int, states: ClientStates
    ) -> Replies:
        begin, train = self.private | self._place(params), self._train(round)
        stacks = self._training(train, begin, clients, round, states)
        found = [self.engine.map(self._of(train, s, stacks), begin, s.own) for s in stacks]
        delta, metrics, state = _in_order(found, stacks)
        if state:
            kept = (finite(state) & finite(delta)).nonzero().flatten()
            states.write([clients[i] for i in kept], round, select(state, kept))
        return Replies(list(clients), _cpu(delta), _cpu(metrics) | self._steps(clients))

    def _steps(self, clients: Sequence[int]) -> Metrics:
        """The gradient steps of each client's update."""
        lengths = self.federation.lengths(np.asarray(clients), "train").tolist()
        steps = [float(self.learner.steps(length)) for length in lengths]
        return {"steps": torch.tensor(steps, dtype=torch.float64)}

    def _train(self, round: int) -> Train:
        behind, calls = (round - 1) / self.rounds, 1
        if behind >= self.learner.annealed_until:
            behind, calls = 1.0, self.trainings
        wanted = (self.watched, self.measure, self.temperature)
        return Train(self.learner, self.objective, behind, calls, *wanted)

    def _training(
        self,
        train: Train,
        begin: Params,
        clients: Sequence[int],
        round: int,
        states: ClientStates,
    ) -> list[Stack]:
        """The clients in stacks, with what they train with."""
        kept = states.read(clients, round, self.private) if self.learner.keeps_state else {}
        return self._stacks(train, begin, clients, kept, self.learner.draws, "train", round)

    def _stacks(
        self,
        function: Function,
        begin: Params,
        clients: Sequence[int],
        kept: Params,
        draws: int,
        purpose: Purpose,
        *address: int,
    ) -> list[Stack]:
        unharmed = partial(harmless, function, begin)
        return self.drawing.stacks(clients, kept, draws, unharmed, purpose, *address)

    @staticmethod
    def _of(function: Function, stack: Stack, stacks: Sequence[Stack]) -> Function:
        """What a stack computes. Where there are several, none comes twice: lengths differ by round."""
        judged = stack.judged(function)
        return judged if len(stacks) == 1 else replace(judged, calls=1)

    def _place(self, params: Params) -> Params:
        return _place(params, self.device, self.dtype)


def _federation(
    experiment: Experiment,
    device: torch.device,
    dtype: torch.dtype,
    trusted: bool,
    shard: Path | None,
) -> Federation:
    data, sections = experiment.data, experiment.sections["data"]
    if experiment.attack.name != "none" and (shard is not None or not trusted):
        raise RefusedError("attack.name: attackers exist in simulation only, no device is one")
    if shard is not None:
        shards = read_shards(shard)
        fit(shards, data, sections["name"])
        return data.hold(shards, device, dtype)
    if sections.get("root") and not trusted:
        raise ConfigError("data.root: this node opens no folder that a server names")
    federation = data.open(experiment.seed, device, dtype)
    return with_attackers(federation, data, experiment.attack, experiment.seed)


def _place(params: Params, device: torch.device, dtype: torch.dtype) -> Params:
    return {name: value.to(device, dtype) for name, value in params.items()}


def _cpu(values: Params) -> Params:
    return {name: value.cpu() for name, value in values.items()}


def _in_order(found: Sequence[Found], stacks: Sequence[Stack]) -> Found:
    """The results of all stacks, in the order in which the clients were named."""
    if len(stacks) == 1 and not stacks[0].padded:
        return found[0]
    order = torch.as_tensor(np.argsort(np.concatenate([stack.positions for stack in stacks])))
    ordered: Found = tree_map(lambda leaf: leaf[order], joined(found))
    return ordered


def _join_scores(a: Scores, b: Scores) -> Scores:
    return Scores(a.clients + b.clients, stacked(a.curves, b.curves), a.failures | b.failures)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
