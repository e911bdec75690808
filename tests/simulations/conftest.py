from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from fedmeta.config import Experiment, load
from strategies.stock import STRATEGIES

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = (
    "rounds=4",
    "cohort.clients=6",
    "data.clients.train=30",
    "data.clients.val=5",
    "data.clients.test=7",
    "evaluation.clients=5",
    "evaluation.every=2",
    "evaluation.steps=2",
)


def small(*overrides: str) -> Experiment:
    """The quickstart at a size that runs in a second."""
    return load(CONFIGS / "quickstart.yaml", [*SMALL, *overrides], STRATEGIES)


@pytest.fixture(scope="session")
def two_ray_cpus() -> Iterator[None]:
    """A Ray of two CPUs on loopback, shared by the tests that need one."""
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    yield
    ray.shutdown()
