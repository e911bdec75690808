"""What the tests of the server share: Flower's process identity, messages, and every strategy."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedmeta.config import Experiment, choose, load
from strategies.rules import Rules
from strategies.stock import STRATEGIES

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
NEEDED = {
    "custom": {"optimizer": "RMSprop", "options": {"momentum": 0.5}},
    "flwr.QFedAvg": {"options": {"client_learning_rate": 1.0}},
}


@pytest.fixture(autouse=True)
def identity() -> Iterator[None]:
    """Outside a Flower process a message cannot be made without one."""
    names = ("_task_id", "_run_id", "_node_id")
    before = [getattr(TaskIdentity, name) for name in names]
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    yield
    for name, value in zip(names, before, strict=True):
        setattr(TaskIdentity, name, value)


@pytest.fixture(params=sorted(STRATEGIES))
def rules(request: pytest.FixtureRequest) -> Rules:
    """The rules of every named strategy in turn; a newcomer that needs more than lr: see NEEDED."""
    settings = {"name": request.param, "lr": 0.1} | NEEDED.get(request.param, {})
    return choose(STRATEGIES, settings, "strategy").rules()


@pytest.fixture(scope="session")
def quickstart() -> Callable[..., Experiment]:
    """The quickstart with overrides, as a server reads it."""
    return cache(lambda *overrides: load(QUICKSTART, overrides, STRATEGIES))


@pytest.fixture(scope="session")
def reply() -> Callable[[int, RecordDict | Error], Message]:
    """What Flower delivers of a node's answer."""
    return lambda node, content: Message(content, reply_to=Message(RecordDict(), node, "train"))
