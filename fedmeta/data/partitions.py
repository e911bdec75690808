"""Dividing labelled examples among clients, by the partitioners of flwr-datasets.

The partitioners alone send nothing; what reports to Flower there is ``FederatedDataset``.
"""

import warnings
from typing import TYPE_CHECKING

import numpy as np

from fedmeta.data.federation import Clients
from fedmeta.packages import require
from fedmeta.seeding import bits, choose

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

EXTRA = "partitions"


def by_classes(labels: Clients, clients: int, classes: int, seed: int) -> list[Clients]:
    """The examples of each client, ``classes`` of the classes each (McMahan et al. 2017, section 3).

    Client ``i`` has the classes from ``i`` on in a random order that begins anew at its end. So all
    classes are dealt to as many clients where ``clients`` is a multiple of how many classes there
    are, and each is split into equal parts. Raises ValueError where a class has fewer examples than
    clients.
    """
    require("data.partition", EXTRA, "datasets", "flwr_datasets")
    from flwr_datasets.partitioner import PathologicalPartitioner

    partitioner = PathologicalPartitioner(
        clients, "label", classes, class_assignment_mode="deterministic", seed=_seed(seed)
    )
    return _divided(partitioner, labels, clients, seed)


def by_dirichlet(labels: Clients, clients: int, alpha: float, seed: int) -> list[Clients]:
    """The examples of each client, of every class a Dirichlet(alpha) part (Yurochkin et al. 2019).

    As in the paper's code, a client that has its share of all examples gets none of further classes;
    classes come in random order. Small ``alpha``: few classes each.
    """
    require("data.partition", EXTRA, "datasets", "flwr_datasets")
    from flwr_datasets.partitioner import DirichletPartitioner

    partitioner = DirichletPartitioner(
        clients, "label", alpha, min_partition_size=0, self_balancing=True, seed=_seed(seed)
    )
    return _divided(partitioner, labels, clients, seed)


def _divided(partitioner: "Partitioner", labels: Clients, clients: int, seed: int) -> list[Clients]:
    """Rows of each client in ascending order.

    Partitioners take classes by number and their examples by place, so both are shuffled before.
    """
    from datasets import Dataset

    order = choose(len(labels), len(labels), seed, "partition", "examples")
    kinds, numbers = np.unique(labels, return_inverse=True)
    shuffled = choose(len(kinds), len(kinds), seed, "partition", "classes")[numbers]
    partitioner.dataset = Dataset.from_dict(
        {"label": shuffled[order].tolist(), "row": order.tolist()}
    )
    with warnings.catch_warnings(action="ignore"):  # of classes that no client has: callers count
        return [
            np.sort(np.array(partitioner.load_partition(i)[:]["row"], np.int64))
            for i in range(clients)
        ]


def _seed(seed: int) -> int:
    return int(bits(seed, "partition"))
