"""A run on a Ray cluster of two nodes with a CPU each, both on this machine.

``python -m tests.simulations.two_nodes EVENT FOLDER [KEY=VALUE ...]``, where the event is what happens
to the second node after round 2: ``calm``, ``replaced`` or ``lost``; the program prints on how many nodes
workers were. With ``unfetched`` there is no run, but one reply that lies on the second node when that
is replaced; printed is whether it comes, and is that of the local executor.
"""

import os
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
from flwr.app import RecordDict
from ray._private.state import actors
from ray.cluster_utils import Cluster

from fedmeta.config import Experiment
from fedmeta.initial import first_params
from fedmeta.packing import pack_params
from fedmeta.tracking.recorder import Row, Run
from fedmeta.wire import Work, pack_work
from simulations.executors import ray as executor
from simulations.executors.local import LocalExecutor
from simulations.run import run
from simulations.terminal import guard
from tests.simulations.conftest import small

# Ray on Linux takes 127.0.0.1 for the address that the machine has in its network, where a cluster on
# loopback does not listen; all of 127/8 is loopback there
HOST = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
NODE: dict[str, Any] = {"num_cpus": 1, "node_ip_address": HOST}


class Fate:
    """Watches where the workers are, and brings about the event."""

    def __init__(self, event: str, cluster: Cluster) -> None:
        self.event, self.cluster = event, cluster
        self.nodes: set[str] = set()

    def start(self, run: Run) -> None: ...

    def record(self, row: Row) -> None:
        alive = [actor for actor in actors().values() if actor["State"] == "ALIVE"]
        self.nodes |= {actor["Address"]["NodeID"] for actor in alive}
        if (row["round"], row["split"]) != (2, "train") or self.event == "calm":
            return
        (second,) = self.cluster.worker_nodes
        self.cluster.remove_node(second)
        if self.event == "replaced":
            self.cluster.add_node(**NODE)
        else:
            executor.PATIENCE = 3.0  # long enough for a place that cannot come

    def finish(self, summary: Row | None) -> None: ...


def unfetched(experiment: Experiment, folder: Path, cluster: Cluster) -> bool:
    """Ray keeps a reply of 100 kB or more on the node where it was computed."""
    (second,) = cluster.worker_nodes
    work = Work(experiment.to_yaml(), 1, [0, 1, 2], run="1")
    content = pack_work(pack_params(first_params(experiment)[0]), work)
    params, rest = content["params"], RecordDict({"work": content["work"]})
    with closing(executor.RayExecutor(experiment.engine, folder)) as remote:
        where = [
            worker.__ray_call__.remote(lambda self: ray.get_runtime_context().get_node_id())
            for worker in remote._workers
        ]
        node, call = ray.get(where).index(second.node_id), ("train", params, rest)
        answer = remote._workers[node].answer.remote(*call)
        ray.wait([answer], fetch_local=False)
        cluster.add_node(**NODE)
        cluster.remove_node(second)
        found = remote._finish(answer, node, call)
    (expected,) = LocalExecutor(folder).execute("train", [(0, content)])
    return bool(found == expected)


def main(event: str, folder: Path, *overrides: str) -> None:
    with TemporaryDirectory(prefix="ray", dir="/tmp") as temporary:  # paths of sockets are short
        os.environ["RAY_TMPDIR"] = temporary
        cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
        try:
            cluster.add_node(**NODE)
            remote = ("engine.executor=ray", f"engine.address={cluster.address}")
            experiment, fate = small(*overrides, *remote, "engine.workers=2"), Fate(event, cluster)
            if event == "unfetched":
                print(unfetched(experiment, folder, cluster))
                return
            guard(lambda: run(experiment, folder, [fate]), debug=False)
            print(len(fate.nodes))
        finally:
            ray.shutdown()
            cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
