"""Shards of unequal size in one stack: exact where padding does no harm, apart where it would."""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad

from fedmeta.client_state import ClientStates
from fedmeta.cohort import Cohort
from fedmeta.config import parse
from fedmeta.data.sinusoid import SinusoidFederation
from fedmeta.engines.blocks import clients_in
from fedmeta.engines.loop import Loop
from fedmeta.engines.vmap import Vmap
from fedmeta.initial import first_params
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.padding import NO_CLASS, NO_VALUE, Padded, pad
from fedmeta.replies import usable
from fedmeta.stacks import alike
from fedmeta.types import Batch, Episode, Params

ROUNDING = 1e-12
CLIENTS = list(range(12))


def test_who_is_alike() -> None:
    """Up to 1.25 times as long as the shortest: 8 to 10, 11 to 13, 40."""
    lengths = np.array([10, 40, 8, 11, 13, 9])
    assert [lengths[group].tolist() for group in alike(lengths)] == [[8, 9, 10], [11, 13], [40]]
    assert [group.tolist() for group in alike(np.full(3, 7))] == [[0, 1, 2]]


def test_the_shorter_are_padded_with_what_has_no_target() -> None:
    def stack(clients: int, length: int, y: torch.Tensor) -> Episode:
        batch = Batch(torch.ones(clients, 1, length, 2), y.expand(clients, 1, length))
        return Episode(batch, batch)

    support, query = pad([stack(2, 3, torch.tensor(1)), stack(1, 5, torch.tensor(1))])
    assert support.x.shape == query.x.shape == (3, 1, 5, 2)
    assert support.y.tolist() == [[[1, 1, 1, NO_CLASS, NO_CLASS]]] * 2 + [[[1] * 5]]
    values = pad([stack(1, 1, torch.tensor(0.5)), stack(1, 2, torch.tensor(0.5))]).query.y
    assert values.tolist() == [[[0.5, NO_VALUE]], [[0.5, 0.5]]]


def test_a_target_that_is_no_number_is_not_taken_for_padding(tmp_path: Path) -> None:
    """One point of client 3, in a stack with others: it is named as when it is alone."""
    block, params = opened(MAML)
    whole = block.federation
    assert isinstance(whole, SinusoidFederation)
    federation = Spoilt(whole.dataset, whole.seed, whole.device, whole.dtype)
    block = replace(block, drawing=replace(block.drawing, federation=federation))
    replies = block.train(params, CLIENTS, 1, ClientStates(tmp_path))
    assert max(block.engine.given) > 1
    assert usable(replies).tolist() == [client != 3 for client in CLIENTS]


@given(
    real=st.integers(1, 6), more=st.integers(0, 5), classes=st.booleans(), seed=st.integers(0, 99)
)
@settings(max_examples=30, deadline=None)
def test_padding_changes_no_score_and_no_derivative(real, more, classes, seed) -> None:
    """Mean loss, its gradient, and the derivative of the gradient along it."""
    generator = torch.Generator().manual_seed(seed)
    module = Mlp([5], activation="tanh").build((2,), 3)
    kind = "cross_entropy" if classes else "mean_squared_error"
    params = initial_params(module, seed, torch.float64)
    x = torch.randn(1, 1, real, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(1, 1, real, 3, generator=generator, dtype=torch.float64)
    batch = Batch(x, y.argmax(dim=-1) if classes else y)
    longest = 1, 1, real + more
    other = Batch(x.new_ones(*longest, 2), batch.y[:, :, :1].expand(*longest, *batch.y.shape[3:]))
    padded = pad([Episode(batch, batch), Episode(other, other)]).query
    alone, longer = (Batch(part.x[0, 0], part.y[0, 0]) for part in (batch, padded))
    assert len(longer.y) == real + more

    def found(judge: Objective, given: Batch) -> list[torch.Tensor]:
        gradient = grad(judge)(params, given)
        length = grad(lambda p: sum((g**2).sum() for g in grad(judge)(p, given).values()))(params)
        return [*judge.scores(params, given).values(), *gradient.values(), *length.values()]

    expected = found(Objective(module, kind), alone)
    for mine, theirs in zip(found(Padded(module, kind), longer), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=ROUNDING, atol=ROUNDING)


@dataclass(frozen=True)
class Noting(Vmap):
    """Notes how many clients it is given at once."""

    given: list[int] = field(default_factory=list, compare=False)

    def map(self, function: Any, params: Params, each: Any) -> Any:
        self.given.append(clients_in(each))
        return super().map(function, params, each)


class Spoilt(SinusoidFederation):
    """The first query point of client 3 has no number for its target."""

    def draw(self, clients: Any, *address: Any) -> Episode:
        episodes = super().draw(clients, *address)
        episodes.query.y[torch.as_tensor(clients == 3), :, 0] = torch.nan
        return episodes


def opened(
    learner: str, norm: bool = False, least: int = 6, most: int = 12
) -> tuple[Cohort, Params]:
    """Shards of 6 to 12 points, all of which is drawn: of 12 clients three groups are alike at most."""
    experiment = parse(f"""
        {{name: padded, seed: 0, rounds: 1, model: {{name: mlp, hidden: [6], norm: {norm}}},
        data: {{name: sinusoid, shots: 3, queries: null, examples: {most}, least_examples: {least},
                clients: {{train: 20, val: 6, test: 6}}}},
        learner: {learner}, strategy: {{name: fedavg}}, cohort: {{clients: 20}},
        engine: {{name: vmap, device: cpu, dtype: float64}},
        evaluation: {{every: 1, steps: 2, clients: 6, select: last}}}}""")
    return replace(Cohort.open(experiment), engine=Noting(32)), first_params(experiment)[0]


MAML = "{name: maml, inner_lr: 0.02, inner_steps: 2}"
WHOLE = "{name: sgd, lr: 0.02, epochs: 2, batch_size: 100}"
PERSONAL = "{name: fedper, lr: 0.02, epochs: 1, batch_size: 100}"
MINIBATCHES = "{name: sgd, lr: 0.02, epochs: 2, batch_size: 4}"


@pytest.mark.parametrize("learner", [MAML, WHOLE, PERSONAL])
def test_a_padded_client_is_the_client_alone(relative_error, tmp_path: Path, learner: str) -> None:
    """In the order of the names; and 12 clients of 6 lengths are computed in three calls at most."""
    block, params = opened(learner)
    assert len(set(block.federation.lengths(np.array(CLIENTS), "train"))) >= 5
    together = block.train(params, CLIENTS, 1, ClientStates(tmp_path / "together"))
    assert together.clients == CLIENTS
    assert together.failures == {}
    assert sum(block.engine.given) == len(CLIENTS)
    assert len(block.engine.given) <= 3
    alone = replace(block, engine=Loop())
    for row, client in enumerate(CLIENTS):
        own = alone.train(params, [client], 1, ClientStates(tmp_path / "alone"))
        mine = {name: values[row : row + 1] for name, values in together.deltas.items()}
        assert relative_error(mine, own.deltas) < ROUNDING
        loss = float(together.columns["loss"][row])
        assert loss == pytest.approx(float(own.columns["loss"]), rel=ROUNDING)
        assert float(together.columns["examples"][row]) == float(own.columns["examples"])


@pytest.mark.parametrize(
    "learner",
    [
        "{name: reptile, inner_lr: 0.02, inner_steps: 4, batch_size: 48}",
        "{name: pfedme, lam: 1.0, inner_lr: 0.02, inner_steps: 4, local_steps: 2, batch_size: 48}",
        "{name: per_fedavg, alpha: 0.01, beta: 0.01, local_steps: 2, batch_size: 48}",
    ],
)
def test_minibatches_that_miss_the_padding_of_the_shortest_alone(
    relative_error, tmp_path: Path, learner: str
) -> None:
    """Windows of 48 over 40 to 50 examples: what four steps leave out of 40 is padding, of 46 it is not."""
    block, params = opened(learner, least=40, most=50)
    together = block.train(params, CLIENTS, 1, ClientStates(tmp_path / "together"))
    alone = replace(block, engine=Loop())
    for row, client in enumerate(CLIENTS):
        own = alone.train(params, [client], 1, ClientStates(tmp_path / "alone"))
        mine = {name: values[row : row + 1] for name, values in together.deltas.items()}
        assert relative_error(mine, own.deltas) < ROUNDING


def test_the_sum_of_padded_clients_is_that_of_the_loop(relative_error, tmp_path: Path) -> None:
    block, params = opened(MAML)
    found, expected = (
        each.train(params, CLIENTS, 1, ClientStates(tmp_path), "examples").deltas
        for each in (replace(block, engine=Vmap(32)), replace(block, engine=Loop()))
    )
    assert relative_error(found, expected) < ROUNDING


def test_padded_clients_score_as_alone() -> None:
    block, params = opened(MAML)
    together = block.evaluate(params, CLIENTS, steps=2, episodes=2)
    assert len(block.engine.given) <= 3
    for row, client in enumerate(CLIENTS):
        alone = block.evaluate(params, [client], steps=2, episodes=2).curves["loss"][0]
        torch.testing.assert_close(together.curves["loss"][row], alone, rtol=ROUNDING, atol=0)


@pytest.mark.parametrize(("learner", "norm"), [(MAML, True), (MINIBATCHES, False)])
def test_where_padding_would_do_harm_every_length_is_apart(
    tmp_path: Path, learner: str, norm: bool
) -> None:
    """Batch statistics with padding, and minibatches of other examples; tried once for each stack."""
    block, params = opened(learner, norm)
    lengths = block.federation.lengths(np.array(CLIENTS), "train").tolist()
    for _ in range(2):
        block.engine.given.clear()
        block.train(params, CLIENTS, 1, ClientStates(tmp_path))
        assert sorted(block.engine.given) == sorted(Counter(lengths).values())
    assert not any(block.drawing.tried.values())
    assert 1 <= len(block.drawing.tried) <= 3
