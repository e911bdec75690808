"""A block of clients: nobody's trouble is another's, and nothing that comes in is changed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedmeta.client_state import ClientStates
from fedmeta.cohort import Cohort
from fedmeta.config import parse
from fedmeta.data.federation import ClientCounts, Clients, Purpose, Split
from fedmeta.data.sinusoid import Sinusoid, SinusoidFederation
from fedmeta.engines import Engine
from fedmeta.engines.loop import Loop
from fedmeta.engines.vmap import Vmap
from fedmeta.errors import ConfigError, DataError
from fedmeta.learners.maml import Maml
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.replies import Replies, column, drop_unusable, summed
from fedmeta.seeding import Part
from fedmeta.stacks import Drawing, Stack
from fedmeta.types import Episode, Params, Update

CPU = torch.device("cpu")
SINES = Sinusoid(
    shots=4, queries=5, clients=ClientCounts(train=90, val=5, test=5), examples=12
).open(0, CPU, torch.float64)


@dataclass(frozen=True)
class Troubled:
    """Sines, but some shards cannot be drawn from, hold no numbers or have sizes of their own."""

    refusing: frozenset[int] = frozenset()
    spoilt: frozenset[int] = frozenset()
    sizes: dict[int, int] = field(default_factory=dict)
    sines: SinusoidFederation = SINES

    def clients(self, split: Split) -> range:
        return self.sines.clients(split)

    def examples(self, clients: Clients) -> Clients:
        return np.array([self.sizes.get(client, 12) for client in clients.tolist()])

    def lengths(self, clients: Clients, purpose: Purpose) -> Clients:
        return self.sines.lengths(clients, purpose)

    def draw(
        self, clients: Clients, draws: int, seed: int, purpose: Purpose, *address: Part
    ) -> Episode:
        if refused := self.refusing & set(clients.tolist()):
            raise DataError(f"client {min(refused)} holds nothing")
        episodes = self.sines.draw(clients, draws, seed, purpose, *address)
        episodes.support.x[np.isin(clients, list(self.spoilt))] = torch.nan
        return episodes


class Picky(nn.Module):
    """Refuses to compute what is no number."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Mlp([6]).build((1,), 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.isnan().any():
            raise ArithmeticError("the input is no number")
        output: Tensor = self.inner(x)
        return output


def cohort(federation: Troubled | None = None, module: nn.Module | None = None) -> Cohort:
    return Cohort(
        drawing=Drawing(federation or Troubled(), 0, CPU, torch.float64),
        objective=Objective(module or Mlp([6]).build((1,), 1), "mean_squared_error"),
        learner=Maml(inner_lr=0.05, inner_steps=2),
        engine=Loop(),
        private={},
        shapes={},
        rounds=10,
        trainings=10,
        evaluations=1,
        transductive=True,
        device=CPU,
        dtype=torch.float64,
    )


def start(of: Cohort) -> Params:
    return initial_params(of.objective.module, 3, torch.float64)


def train(block: Cohort, params: Params, clients: Sequence[int], round: int) -> Replies:
    """Of a learner that keeps no state, so the folder is never made."""
    return block.train(params, clients, round, ClientStates(Path("no such folder")))


def assert_same(a: Replies, b: Replies) -> None:
    """Bitwise, failures aside."""
    assert a.clients == b.clients
    for mine, theirs in ((a.deltas, b.deltas), (a.columns, b.columns)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_every_client_has_a_row(relative_error) -> None:
    """The learner's own update on the episode drawn for it, in the order that was asked for."""
    block, params = cohort(Troubled(sizes={8: 30})), start(cohort())
    replies = train(block, params, [8, 2, 5], 4)
    assert replies.clients == [8, 2, 5]
    assert replies.failures == {}
    assert replies.columns["examples"].tolist() == [30, 12, 12]
    for row, client in enumerate(replies.clients):
        episodes = SINES.draw(np.array([client]), 1, 0, "train", 4).draw(0)
        expected = block.learner.update(block.objective, params, episodes)
        mine = {name: values[row] for name, values in replies.deltas.items()}
        assert relative_error(mine, expected.delta) == 0
        assert replies.columns["loss"][row] == expected.metrics["loss"]


TROUBLES = {
    "its shard is refused": (
        Troubled(refusing=frozenset({7})),
        None,
        "DataError: client 7 holds nothing",
    ),
    "its model raises": (
        Troubled(spoilt=frozenset({7})),
        Picky(),
        "ArithmeticError: the input is no number",
    ),
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize(
    "clients", [[7, 1, 2], [1, 7, 2], [1, 2, 7]], ids=["first", "middle", "last"]
)
def test_a_client_that_raises_is_named_and_harms_nobody(trouble: str, clients: list[int]) -> None:
    federation, module, reason = TROUBLES[trouble]
    block = cohort(federation, module)
    with_it, without_it = (train(block, start(block), who, 4) for who in (clients, [1, 2]))
    assert with_it.failures == {7: reason}
    assert without_it.failures == {}
    assert_same(with_it, without_it)


def test_a_client_that_raises_harms_nobody_in_a_vectorised_block(relative_error) -> None:
    """The rest is computed one by one: equal but for rounding."""
    block = replace(cohort(Troubled(refusing=frozenset({7}))), engine=Vmap(2))
    with_it, without_it = (train(block, start(block), who, 4) for who in ([1, 7, 2], [1, 2]))
    assert with_it.clients == [1, 2]
    assert list(with_it.failures) == [7]
    assert relative_error(with_it.deltas, without_it.deltas) < 1e-12


@dataclass(frozen=True)
class Misfit(Maml):
    """A learner that finds out at work that the model does not fit it."""

    def update(
        self, loss: Objective, params: Params, episodes: Episode, progress: float = 0.0
    ) -> Update:
        raise ConfigError("learner.order needs second derivatives")


@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_a_config_that_does_not_fit_is_nobodys_failure(clients: list[int]) -> None:
    block = replace(cohort(), learner=Misfit(inner_lr=0.05, inner_steps=2))
    with pytest.raises(ConfigError, match=r"^learner\.order needs second derivatives$"):
        train(block, start(block), clients, 4)


@dataclass(frozen=True)
class Clock(Maml):
    """Reports the progress that it is told."""

    @property
    def annealed_until(self) -> float:
        return 0.6

    def update(
        self, loss: Objective, params: Params, episodes: Episode, progress: float = 0.0
    ) -> Update:
        return Update(params, {"progress": torch.tensor(progress, dtype=torch.float64)})


@pytest.mark.parametrize(("round", "progress"), [(1, 0.0), (6, 0.5), (7, 1.0), (10, 1.0)])
def test_progress_is_the_part_of_ten_rounds_that_lies_behind(round: int, progress: float) -> None:
    """Until annealing ends, here after 0.6: then it is 1, and training the same function every round."""
    block = replace(cohort(), learner=Clock(inner_lr=0.05, inner_steps=2))
    assert train(block, start(block), [4], round).columns["progress"].tolist() == [progress]
    function = block._train(round)
    assert function.calls == (10 if progress == 1 else 1)
    stack = Stack(np.arange(1), None)
    assert block._of(function, stack, [stack]) == function
    assert (
        block._of(function, stack, [stack, stack]).calls == 1
    )  # of many lengths, none comes twice


def test_all_clients_can_fail() -> None:
    block = cohort(Troubled(refusing=frozenset({1, 2})))
    replies = train(block, start(block), [1, 2], 0)
    assert replies.clients == []
    assert replies.failures == {c: f"DataError: client {c} holds nothing" for c in (1, 2)}
    assert summed(replies, "examples").deltas == {}


def test_one_block_is_two_blocks() -> None:
    """A node of a thousand clients and a thousand nodes of one give the same bits in the loop."""
    block = cohort()
    params, together = start(block), train(block, start(block), [4, 9, 2], 1)
    parts = [train(block, params, clients, 1) for clients in ([4], [9, 2])]
    for name, values in together.deltas.items():
        assert torch.equal(values, torch.cat([part.deltas[name] for part in parts]))


def test_a_round_is_a_pure_function() -> None:
    block, clients = cohort(), [4, 9]
    params = start(block)
    before = {name: values.clone() for name, values in params.items()}
    first, again = (train(block, params, clients, 1) for _ in range(2))
    assert_same(first, again)
    assert all(torch.equal(values, before[name]) for name, values in params.items())
    assert not any(values.requires_grad for values in [*params.values(), *first.deltas.values()])


def test_another_round_or_seed_draws_other_episodes() -> None:
    block = cohort()
    params, clients = start(block), [4, 9]
    loss = train(block, params, clients, 1).columns["loss"]
    assert not torch.equal(loss, train(block, params, clients, 2).columns["loss"])
    other = replace(block, drawing=replace(block.drawing, seed=1))
    assert not torch.equal(loss, train(other, params, clients, 1).columns["loss"])


def test_params_are_computed_with_in_the_dtype_of_the_cohort() -> None:
    block = cohort()
    params = {name: values.float() for name, values in start(block).items()}
    replies = train(block, params, [4], 1)
    assert {values.dtype for values in replies.deltas.values()} == {torch.float64}
    assert {values.dtype for values in params.values()} == {torch.float32}


# What can be averaged


def test_a_client_with_nan_is_named_and_left_out_of_the_sum(relative_error) -> None:
    block = cohort(Troubled(spoilt=frozenset({7})))
    replies = train(block, start(block), [1, 7, 2], 4)
    assert replies.clients == [1, 7, 2]
    total = summed(replies, "examples")
    assert total.clients == [1, 2]
    assert list(total.failures) == [7]
    assert total.columns["examples"].tolist() == [12, 12]
    expected = summed(train(block, start(block), [1, 2], 4), "examples")
    assert relative_error(total.deltas, expected.deltas) == 0


@pytest.mark.parametrize("weight", ["one", "examples", "loss"])
def test_a_sum_is_weight_times_delta_of_each(relative_error, weight: str) -> None:
    block = cohort(Troubled(sizes={1: 3, 2: 40}))
    replies = train(block, start(block), [1, 2, 3], 4)
    total = summed(replies, weight)
    weights = [1.0] * 3 if weight == "one" else replies.columns[weight].tolist()
    expected = {
        name: sum(w * values[row] for row, w in enumerate(weights))
        for name, values in replies.deltas.items()
    }
    assert total.summed
    assert total.clients == [1, 2, 3]
    assert relative_error(total.deltas, expected) < 1e-12


@pytest.mark.parametrize("weight", ["one", "examples", "loss"])
@pytest.mark.parametrize("engine", [Loop(), Vmap(2)], ids=str)
def test_a_sum_formed_by_the_engine_is_the_sum_of_replies(
    relative_error, engine: Engine, weight: str
) -> None:
    """Shards of 12, 3, 12 and 40 examples, which are computed in three blocks."""
    block = replace(cohort(Troubled(sizes={2: 3, 4: 40})), engine=engine)
    states, clients = ClientStates(Path("no such folder")), [1, 2, 3, 4]
    found = block.train(start(block), clients, 4, states, weight)
    each = train(block, start(block), clients, 4)
    assert found.summed
    assert found.clients == clients
    assert relative_error(found.deltas, summed(each, weight).deltas) < 1e-12
    assert relative_error(found.columns, each.columns) < 1e-12


@pytest.mark.parametrize(
    "trouble", [Troubled(spoilt=frozenset({7})), Troubled(refusing=frozenset({7}))], ids=str
)
def test_a_client_that_would_spoil_the_sum_is_left_out_of_it(
    relative_error, trouble: Troubled
) -> None:
    block, states = cohort(trouble), ClientStates(Path("no such folder"))
    found = block.train(start(block), [1, 7, 2], 4, states, "examples")
    expected = block.train(start(block), [1, 2], 4, states, "examples")
    assert found.summed
    assert found.clients == [1, 2]
    assert list(found.failures) == [7]
    assert relative_error(found.deltas, expected.deltas) < 1e-12


def test_columns_as_weights() -> None:
    replies = Replies([3, 4], {}, {"examples": torch.tensor([20, 30])})
    assert column(replies, "one").tolist() == [1, 1]
    assert column(replies, "examples").tolist() == [20, 30]
    assert column(replies, "examples").dtype == torch.float64


def handmade() -> Replies:
    return Replies(
        clients=[5, 6, 7],
        deltas={"w": torch.tensor([[1.0, 2], [3, 4], [5, 6]])},
        columns={"examples": torch.tensor([10, 20, 30]), "loss": torch.tensor([0.1, 0.2, 0.3])},
        failures={9: "gone"},
    )


def test_usable_replies_stay_as_they_are() -> None:
    replies = handmade()
    assert drop_unusable(replies) is replies


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        ("deltas", "w", float("nan")),
        ("deltas", "w", float("-inf")),
        ("columns", "loss", float("inf")),
        ("columns", "examples", 0),
        ("columns", "examples", -20),
    ],
)
def test_what_cannot_be_averaged_is_dropped_by_name(where: str, name: str, value: float) -> None:
    replies = handmade()
    getattr(replies, where)[name][1] = value
    left = drop_unusable(replies)
    assert left.clients == [5, 7]
    assert left.deltas["w"].tolist() == [[1, 2], [5, 6]]
    assert left.columns["examples"].tolist() == [10, 30]
    assert left.failures.keys() == {6, 9}
    assert left.failures[9] == "gone"
    assert replies.clients == [5, 6, 7]


@pytest.mark.parametrize(("where", "name"), [("deltas", "w"), ("columns", "loss")])
def test_of_a_spoilt_sum_nothing_is_left(where: str, name: str) -> None:
    """One client's nonsense cannot be taken out of a sum again: its clients go together."""
    replies = replace(handmade(), deltas={"w": torch.tensor([1.0, 2])}, summed=True)
    getattr(replies, where)[name][1] = torch.nan
    left = drop_unusable(replies)
    assert left.clients == []
    assert left.failures.keys() == {5, 6, 7, 9}
    assert [len(values) for values in left.columns.values()] == [0, 0]


# Evaluation


def test_evaluation_scores_every_client_after_every_step() -> None:
    block = cohort()
    params, clients = start(block), list(SINES.clients("test"))
    scores = block.evaluate(params, clients, steps=3, episodes=2)
    assert scores.clients == clients
    assert scores.curves["loss"].shape == (5, 4)
    again = block.evaluate(params, clients, steps=3, episodes=2)
    assert torch.equal(scores.curves["loss"], again.curves["loss"])
    alone = block.evaluate(params, clients[2:3], steps=3, episodes=2)
    assert torch.equal(scores.curves["loss"][2:3], alone.curves["loss"])


def test_more_steps_extend_the_curve() -> None:
    block = cohort()
    short, long = (block.evaluate(start(block), [97], steps, 1).curves["loss"] for steps in (1, 4))
    assert torch.equal(short, long[:, :2])


def test_a_config_that_does_not_fit_ends_an_evaluation() -> None:
    block = cohort()
    with pytest.raises(ConfigError, match=r"^learner\.adapt: 'nothing' matches no param"):
        replace(block, learner=Maml(0.05, 2, adapt=["nothing"])).evaluate(start(block), [97], 1, 1)


def test_what_never_travels_is_there_in_training_and_evaluation() -> None:
    """Private params stand beside those that are sent: the same as if all had been sent."""
    block, learner = cohort(), Maml(inner_lr=0.05, inner_steps=2, adapt="head", freeze=True)
    params = start(block)
    private = {name: params[name] for name in learner.private(params)}
    travels = {name: params[name] for name in params.keys() - private.keys()}
    assert sorted(travels) == ["head.bias", "head.weight"]
    frozen = replace(block, learner=learner, private=private)
    anil = replace(block, learner=replace(learner, freeze=False))
    mine, whole = train(frozen, travels, [8, 2], 4), train(anil, params, [8, 2], 4)
    assert mine.deltas.keys() == travels.keys()
    assert all(torch.equal(values, whole.deltas[name]) for name, values in mine.deltas.items())
    curves = [
        of.evaluate(sent, [97], 2, 1).curves["loss"]
        for of, sent in ((frozen, travels), (anil, params))
    ]
    assert torch.equal(*curves)


# From a config

YAML = """
name: sines
seed: 0
rounds: 1
data: {name: sinusoid, shots: 4, queries: 5, examples: 12, clients: {train: 90, val: 5, test: 5}}
model: {name: mlp, hidden: [6]}
learner: {name: maml, inner_lr: 0.05, inner_steps: 2}
strategy: {name: fedavg}
cohort: {clients: 3}
engine: {name: loop, device: cpu, dtype: float64}
evaluation: {every: 1, steps: 1, clients: 5}
"""


def test_a_config_opens_the_same_cohort() -> None:
    block = cohort()
    opened = Cohort.open(parse(YAML))
    assert_same(train(opened, start(block), [8, 2], 4), train(block, start(block), [8, 2], 4))
