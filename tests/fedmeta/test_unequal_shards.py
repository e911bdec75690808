"""Shards of unequal size: no padding, no order lost, and a client weighs what it holds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmeta.checkpoint import write_checkpoint
from fedmeta.client_state import ClientStates
from fedmeta.cohort import Cohort
from fedmeta.config import parse
from fedmeta.engines import Engine
from fedmeta.engines.loop import Loop
from fedmeta.engines.vmap import Vmap
from fedmeta.initial import first_params
from fedmeta.replies import Replies, summed
from fedmeta.types import Params
from simulations.run import run
from strategies.stock import STRATEGIES

CLIENTS = [11, 2, 7, 3, 19, 5, 0]
LEARNERS = {
    "sgd": "{name: sgd, lr: 0.02, epochs: 2, batch_size: 4}",
    "maml": "{name: maml, inner_lr: 0.02, inner_steps: 2}",
    "fedper": "{name: fedper, lr: 0.02, epochs: 1, batch_size: 4}",
}


def config(learner: str = "sgd", replies: str = "sum") -> str:
    """Batch norm, which padding would not leave alone; shards of 6 to 10, all of which is drawn."""
    return f"""
        {{name: unequal, seed: 0, rounds: 1, model: {{name: mlp, hidden: [6], norm: true}},
        data: {{name: sinusoid, shots: 3, queries: null, examples: 10, least_examples: 6,
                clients: {{train: 20, val: 6, test: 6}}}},
        learner: {LEARNERS[learner]}, strategy: {{name: fedavg}},
        cohort: {{clients: 20, replies: {replies}}},
        engine: {{name: loop, device: cpu, dtype: float64}},
        evaluation: {{every: 1, steps: 2, clients: 6, select: last}}}}"""


def opened(learner: str, engine: Engine) -> tuple[Cohort, Params]:
    experiment = parse(config(learner))
    return replace(Cohort.open(experiment), engine=engine), first_params(experiment)[0]


every_learner = pytest.mark.parametrize("learner", LEARNERS)
every_engine = pytest.mark.parametrize("engine", [Loop(), Vmap(2), Vmap(8)], ids=str)


def train(block: Cohort, params: Params, clients: list[int], folder: Path) -> Replies:
    return block.train(params, clients, 1, ClientStates(folder))


def test_the_clients_here_are_of_unequal_size() -> None:
    block, _ = opened("sgd", Loop())
    held = block.federation.examples(np.array(CLIENTS)).tolist()
    assert len(set(held)) >= 3
    assert held != sorted(held)


@every_learner
@every_engine
def test_a_client_of_a_ragged_block_is_the_client_alone(
    relative_error, tmp_path: Path, engine: Engine, learner: str
) -> None:
    """In the order that was asked for, to the bit in the loop."""
    block, params = opened(learner, engine)
    together = train(block, params, CLIENTS, tmp_path / "together")
    assert together.clients == CLIENTS
    assert together.failures == {}
    for row, client in enumerate(CLIENTS):
        alone = train(block, params, [client], tmp_path / "alone")
        mine = {name: values[row : row + 1] for name, values in together.deltas.items()}
        assert relative_error(mine, alone.deltas) <= (0 if engine == Loop() else 1e-12)
        assert float(together.columns["loss"][row]) == pytest.approx(
            float(alone.columns["loss"]), rel=1e-12
        )
    if block.learner.keeps_state:
        kept = (
            ClientStates(tmp_path / name).read(CLIENTS, 2, block.private)
            for name in ("together", "alone")
        )
        assert relative_error(*kept) <= (0 if engine == Loop() else 1e-12)


@every_learner
def test_vmap_equals_loop(relative_error, tmp_path: Path, learner: str) -> None:
    found = []
    for name, engine in (("vmap", Vmap(2)), ("loop", Loop())):
        block, params = opened(learner, engine)
        found.append(train(block, params, CLIENTS, tmp_path / name))
    assert relative_error(found[0].deltas, found[1].deltas) < 1e-12


@every_engine
def test_scores_of_a_ragged_block_are_those_of_each_client_alone(engine: Engine) -> None:
    block, params = opened("maml", engine)
    together = block.evaluate(params, CLIENTS, steps=2, episodes=2)
    assert together.clients == CLIENTS
    for row, client in enumerate(CLIENTS):
        alone = block.evaluate(params, [client], steps=2, episodes=2).curves["loss"][0]
        torch.testing.assert_close(together.curves["loss"][row], alone, atol=1e-12, rtol=1e-12)


def test_the_weights_are_the_shard_sizes(relative_error, tmp_path: Path) -> None:
    block, params = opened("sgd", Loop())
    replies = train(block, params, CLIENTS, tmp_path)
    held = [
        block.federation.draw(np.array([client]), 1, 0, "train", 1).draw(0).draw(0)
        for client in CLIENTS
    ]
    sizes = [len(episode.support.y) + len(episode.query.y) for episode in held]
    assert replies.columns["examples"].tolist() == sizes
    expected = {
        name: sum(n * values[row] for row, n in enumerate(sizes))
        for name, values in replies.deltas.items()
    }
    assert relative_error(summed(replies, "examples").deltas, expected) < 1e-12


@pytest.mark.parametrize("replies", ["sum", "each"])
def test_a_round_of_federated_averaging_is_the_mean_weighted_by_size(
    relative_error, tmp_path: Path, replies: str
) -> None:
    """``w = sum_c n_c w_c / sum_c n_c`` (McMahan et al. 2017) over every client's trained params."""
    experiment = parse(config(replies=replies), (), STRATEGIES)
    found = run(experiment, tmp_path).params
    block, (params, _) = Cohort.open(experiment), first_params(experiment)
    total, mean = 0, {name: torch.zeros_like(values) for name, values in params.items()}
    for client in range(20):
        episodes = block.federation.draw(np.array([client]), 1, 0, "train", 1).draw(0)
        size = len(episodes.support.y[0]) + len(episodes.query.y[0])
        delta = block.learner.update(block.objective, params, episodes).delta
        mean = {name: mean[name] + size * (w - delta[name]) for name, w in params.items()}
        total += size
    assert relative_error(found, {name: values / total for name, values in mean.items()}) < 1e-12


def test_a_client_of_a_ragged_block_that_fails_harms_nobody(tmp_path: Path) -> None:
    """Its state is of another model."""
    block, params = opened("fedper", Loop())
    for folder, clients in (("all", CLIENTS), ("others", [c for c in CLIENTS if c != 7])):
        train(block, params, clients, tmp_path / folder)
    state = tmp_path / "all" / "7" / "1.safetensors"
    write_checkpoint(state, {"other": torch.zeros(2)}, {"client": 7, "round": 1})
    with_it = block.train(params, CLIENTS, 2, ClientStates(tmp_path / "all"))
    others = [client for client in CLIENTS if client != 7]
    without_it = block.train(params, others, 2, ClientStates(tmp_path / "others"))
    assert list(with_it.failures) == [7]
    assert with_it.clients == others
    assert all(torch.equal(with_it.deltas[k], v) for k, v in without_it.deltas.items())
