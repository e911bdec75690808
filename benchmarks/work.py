"""What is timed, as plain data: needs numpy alone, so the environment of every package can read it.

The numbers are drawn, not read from a data set: the arithmetic of a round does not depend on them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float32]]
WAYS = 5


@dataclass(frozen=True)
class Work:
    """A round of one learner with one model."""

    name: str
    title: str
    learner: Literal["maml", "fomaml", "anil", "reptile"]
    model: Literal["sines", "mlp", "pooled", "strided"]
    """Finn's net for sines; 784-256-128-64-64-5; Conv-4 with 64 filters, pooled or strided."""
    clients: int
    """In a round."""
    support: int
    """Rows. Reptile takes its steps on support and query together."""
    query: int
    inner_lr: float
    steps: int = 1
    tolerance: float = 1e-2
    """Greatest error of an update in float32, relative to its greatest number. Rounding is some 1e-6;
    a ReLU or a pooling whose inputs tie but for rounding goes another way, 1e-4 to 5e-3 in a mean of
    clients. First order in place of second, or a step less, is 1e-1."""

    @property
    def hidden(self) -> tuple[int, ...]:
        """Of the fully connected nets."""
        return (40, 40) if self.model == "sines" else (256, 128, 64, 64)

    @property
    def server_lr(self) -> float:
        """With which a run of several rounds stays finite."""
        return 1.0 if self.learner == "reptile" else 0.01

    @property
    def convolutional(self) -> bool:
        """Whether it is a Conv-4."""
        return self.model in ("pooled", "strided")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one example."""
        return (1,) if self.model == "sines" else (1, 28, 28)

    @property
    def outputs(self) -> int:
        """Values, or classes."""
        return 1 if self.model == "sines" else WAYS


WORKS = (
    Work("sines-maml", "sines, 1-40-40-1, MAML", "maml", "sines", 128, 10, 10, 0.01),
    Work("sines-reptile", "sines, 1-40-40-1, Reptile 5 steps", "reptile", "sines", 100, 10, 10, 0.01, 5),
    Work("mlp-maml", "784-256-128-64-64-5, MAML", "maml", "mlp", 128, 5, 75, 0.1),
    Work("mlp-reptile", "784-256-128-64-64-5, Reptile 5 steps", "reptile", "mlp", 128, 5, 20, 0.1, 5),
    Work("conv-maml", "Conv-4 pooled, MAML", "maml", "pooled", 32, 5, 75, 0.4),
    Work("conv-fomaml", "Conv-4 pooled, first-order MAML", "fomaml", "pooled", 32, 5, 75, 0.4),
    Work("conv-anil", "Conv-4 pooled, ANIL", "anil", "pooled", 32, 5, 75, 0.4),
    Work("strided-maml", "Conv-4 strided, MAML", "maml", "strided", 32, 5, 5, 0.4),
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A work with its numbers; episodes are ``[clients, rows, ...]``, targets floats or classes."""

    work: Work
    params: Arrays
    support_x: NDArray[np.float32]
    support_y: NDArray[np.generic]
    query_x: NDArray[np.float32]
    query_y: NDArray[np.generic]
    expected: Arrays
    """Mean over clients of the params before less the params after, or of the meta-gradient."""

    def every_example(self) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
        """Support and query as one: what Reptile trains on."""
        x = np.concatenate([self.support_x, self.query_x], axis=1)
        return x, np.concatenate([self.support_y, self.query_y], axis=1)


def episodes(work: Work, seed: int = 0) -> list[tuple[NDArray[np.float32], NDArray[np.generic]]]:
    """Support and query of every client: real sines, or noise for images."""
    random = np.random.default_rng(seed)
    amplitude = random.uniform(0.1, 5.0, (work.clients, 1, 1))
    phase = random.uniform(0.0, np.pi, (work.clients, 1, 1))
    drawn: list[tuple[NDArray[np.float32], NDArray[np.generic]]] = []
    for rows in (work.support, work.query):
        shape = (work.clients, rows, *work.input_shape)
        if work.model == "sines":
            x = random.uniform(-5.0, 5.0, shape)
            y: NDArray[np.generic] = (amplitude * np.sin(x - phase)).astype(np.float32)
        else:
            x = random.uniform(0.0, 1.0, shape)
            y = np.broadcast_to(np.arange(rows) % WAYS, (work.clients, rows)).copy()
        drawn.append((x.astype(np.float32), y))
    return drawn


def save(job: Job, path: Path) -> None:
    """As one file."""
    numbers = {key: getattr(job, key) for key in ("support_x", "support_y", "query_x", "query_y")}
    for kind in ("params", "expected"):
        numbers |= {f"{kind}/{name}": value for name, value in getattr(job, kind).items()}
    np.savez(path, work=json.dumps(asdict(job.work)), **numbers)


def load(path: Path) -> Job:
    """What ``save`` wrote."""
    with np.load(path) as file:
        found = dict(file)
    params, expected = (_under(found, f"{kind}/") for kind in ("params", "expected"))
    work = Work(**json.loads(str(found["work"])))
    support, query = ((found[f"{part}_x"], found[f"{part}_y"]) for part in ("support", "query"))
    return Job(work, params, *support, *query, expected)


def _under(found: Mapping[str, NDArray[np.float32]], prefix: str) -> Arrays:
    return {key.removeprefix(prefix): v for key, v in found.items() if key.startswith(prefix)}


def error(found: Arrays, expected: Arrays) -> float:
    """The greatest difference, relative to the greatest number of all."""
    if found.keys() != expected.keys():
        raise ValueError(f"an update of {sorted(expected)} is expected, got {sorted(found)}")
    scale = max(float(np.abs(value).max()) for value in expected.values())
    return max(float(np.abs(found[n] - expected[n]).max()) for n in expected) / scale
