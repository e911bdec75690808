"""Runs on a Ray cluster of two nodes with a CPU each, both on this machine.

``python -m tests.simulations.two_nodes FOLDER EVENT[,EVENT ...] [KEY=VALUE ...]``: one run after the
other, each in the folder of its event, which is what happens to the second node after round 2: ``calm``,
``replaced``, or ``lost``, after which there is but one. A line says on how many nodes workers were. With
``unfetched`` there is no run, but one reply that lies on the second node when that is replaced; the line
says whether it comes, and is that of the local executor.
"""

import os
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
from flwr.app import RecordDict
from ray._private.state import actors
from ray.cluster_utils import Cluster

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


def unfetched(cluster: Cluster, folder: Path, *overrides: str) -> bool:
    """Ray keeps a reply of 100 kB or more on the node where it was computed."""
    (second,) = cluster.worker_nodes
    experiment = small(*overrides, "model.hidden=[200,200]")
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


def nodes(event: str, cluster: Cluster, folder: Path, *overrides: str) -> int:
    """On how many there were workers in a run."""
    fate = Fate(event, cluster)
    guard(lambda: run(small(*overrides), folder, [fate], pictures=False), debug=False)
    return len(fate.nodes)


def main(folder: Path, events: str, *overrides: str) -> None:
    with TemporaryDirectory(prefix="ray", dir="/tmp") as temporary:  # paths of sockets are short
        os.environ["RAY_TMPDIR"] = temporary
        cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
        try:
            cluster.add_node(**NODE)
            remote = ("engine.executor=ray", f"engine.address={cluster.address}")
            every = (*overrides, *remote, "engine.workers=2")
            for event in events.split(","):
                play = unfetched if event == "unfetched" else partial(nodes, event)
                (folder / event).mkdir()
                print(f"{event}: {play(cluster, folder / event, *every)}", flush=True)
        finally:
            ray.shutdown()
            cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
