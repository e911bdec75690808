"""The server's memory between rounds: what it keeps, and what it refuses to become."""

from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord

from fedmeta.config import load
from fedmeta.evaluation import Scores
from fedmeta.packing import pack_params
from fedmeta.replies import Replies
from fedmeta.wire import unpack_work
from simulations.executors.local import LocalExecutor
from simulations.grid import CohortGrid
from strategies.evaluation import Report
from strategies.meta_strategy import MetaStrategy
from strategies.optimizers import ServerOptimizer
from strategies.roster import Attendance
from strategies.rules import Rules
from strategies.state import Best, ServerState, protocol
from strategies.stock import STRATEGIES
from strategies.weighting import WEIGHTINGS

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
PARAMS = {"w": torch.tensor([1.0, 2.0])}


def strategy(state: ServerState, *overrides: str) -> MetaStrategy:
    experiment = load(CONFIG, overrides, STRATEGIES)
    grid = CohortGrid(LocalExecutor(Path("nothing is kept")))
    attendance = Attendance(grid, experiment.to_yaml(), 10.0)
    attendance.now()
    return MetaStrategy(experiment, attendance, state)


def report(loss: float, missing: int = 0, diverged: bool = True) -> Report:
    clients = list(range(400, 410 - missing))
    without = range(410 - missing, 410)
    curve = torch.full((len(clients), 11), loss, dtype=torch.float64)
    scores = Scores(clients, {"loss": curve}, dict.fromkeys(without, "its scores are NaN"))
    return Report(scores, frozenset(without) if diverged else frozenset())


def test_a_step_that_is_not_finite_is_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    """The delta is finite in float32, whose largest number is 3.4e38; ten times it is not."""
    server = strategy(ServerState(4, PARAMS))
    server.rules = Rules(WEIGHTINGS["examples"], ServerOptimizer("SGD", 10.0))
    replies = Replies([7], {"w": torch.full((1, 2), 3e38)}, {"examples": torch.tensor([40.0])})
    outcome = server.rules.combine([replies], PARAMS, {})
    assert not server._step(outcome, 5)
    assert server.state.params is PARAMS
    assert "the step is not finite" in caplog.text


@pytest.mark.parametrize("name", ["Adam", "Yogi", "Adagrad", "RMSprop"])
def test_a_step_that_breaks_the_memory_of_the_optimiser_is_not_taken(name: str) -> None:
    """1e25 squared is beyond float32: the moment would be infinite, and its coordinate still, for good."""
    server = strategy(ServerState(4, PARAMS))
    server.rules = Rules(WEIGHTINGS["examples"], ServerOptimizer(name, 0.1))
    replies = Replies([7], {"w": torch.full((1, 2), 1e25)}, {"examples": torch.tensor([40.0])})
    outcome = server.rules.combine([replies], PARAMS, {})
    assert not server._step(outcome, 5)
    assert (server.state.params, server.state.optimizer) == (PARAMS, {})


def test_the_best_is_the_lowest_loss() -> None:
    server = strategy(ServerState(10, PARAMS))
    for round, loss in ((1, 3.0), (2, 1.0), (3, 2.0)):
        server.state = ServerState(round, PARAMS, best=server.state.best)
        server._remember_best(report(loss))
    assert server.state.best is not None
    assert (server.state.best.round, server.state.best.score) == (2, -1.0)


def test_params_on_which_clients_diverge_are_no_best() -> None:
    """Nine good clients and one that diverged do not beat ten that are a little worse."""
    server = strategy(ServerState(1, PARAMS))
    server._remember_best(report(1.0))
    server.state = ServerState(2, PARAMS, best=server.state.best)
    server._remember_best(report(0.1, missing=1))
    assert server.state.best is not None
    assert server.state.best.round == 1


def test_a_client_that_went_away_says_nothing_of_the_params() -> None:
    server = strategy(ServerState(1, PARAMS))
    server._remember_best(report(1.0))
    server.state = ServerState(2, PARAMS, best=server.state.best)
    server._remember_best(report(0.5, missing=1, diverged=False))
    assert server.state.best is not None
    assert (server.state.best.round, server.state.best.score) == (2, -0.5)


def test_a_best_of_another_protocol_is_forgotten() -> None:
    """Scores after other steps, of other clients or episodes cannot be compared."""
    scores = torch.full((10,), -0.1).double()
    held = Best(1, torch.arange(400, 410), scores, "100 clients, 1 episodes, 50 steps", PARAMS)
    server = strategy(ServerState(7, PARAMS, best=held))
    assert held.protocol != protocol(server.experiment)
    server._remember_best(report(2.0))
    assert server.state.best is not None
    assert (server.state.best.round, server.state.best.score) == (7, -2.0)


@pytest.mark.parametrize(
    "override",
    [
        "evaluation.steps=9",
        "evaluation.clients=99",
        "evaluation.episodes=2",
        "evaluation.transductive=false",
        "data.evaluation.queries=3",
    ],
)
def test_what_a_validation_score_depends_on_is_its_protocol(override: str) -> None:
    plain, changed = (load(CONFIG, some, STRATEGIES) for some in ([], [override]))
    assert protocol(plain) != protocol(changed)


def test_rounds_go_on_from_where_the_state_is(tmp_path: Path) -> None:
    """Flower counts from 1; the cohort of a resumed round is that of the uninterrupted one."""
    grid, arrays = CohortGrid(LocalExecutor(tmp_path)), pack_params(PARAMS)

    def clients(behind: int, server_round: int) -> list[int]:
        server = strategy(ServerState(behind, PARAMS))
        (message,) = server.configure_train(server_round, arrays, ConfigRecord(), grid)
        return unpack_work(message.content).clients

    assert clients(0, 5) == clients(4, 1) == clients(2, 3)
    assert clients(0, 5) != clients(0, 6)
    assert len(np.unique(clients(0, 5))) == 50
