"""Whole rounds of Flower's own simulation engine: prints the seconds of each, and the first's error.

python -m benchmarks.peers.flower_simulation JOB.npz learn|identity ROUNDS

Every client is a node, and the strategy Flower's FedAvg.
"""

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.ours import tensors
from benchmarks.peers.flower_client import app
from benchmarks.work import Arrays, Job, error, load

BACKEND: Any = {
    "init_args": {
        "num_cpus": 2,
        "include_dashboard": False,
        "log_to_driver": False,
        "_node_ip_address": "127.0.0.1",
    },
    "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
}


def seconds(path: str, learn: bool, rounds: int) -> tuple[list[float], Arrays]:
    """Of each round after the first, and the params after the first."""
    job, ticks, first = load(Path(path)), list[float](), dict[str, Any]()

    def after_round(round: int, arrays: ArrayRecord) -> MetricRecord | None:
        ticks.append(time.perf_counter())
        if round == 1:
            first.update({n: w.numpy() for n, w in arrays.to_torch_state_dict().items()})
        return None

    server, nodes = ServerApp(), job.work.clients

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
        strategy.start(
            grid,
            ArrayRecord(tensors(job.params)),
            num_rounds=rounds + 1,
            train_config=ConfigRecord({"learn": learn, "job": path}),
            evaluate_fn=after_round,
        )

    run_simulation(server, app, nodes, backend_config=BACKEND)
    return [after - before for before, after in pairwise(ticks[1:])], first


def first_error(job: Job, after: Arrays) -> float:
    """Of the mean delta of the first round, as far as float32 params let it be seen."""
    found = {n: (w - after[n]) / job.work.server_lr for n, w in job.params.items()}
    return error(found, job.expected)


if __name__ == "__main__":
    path, how, rounds = sys.argv[1:]
    found, after = seconds(path, how == "learn", int(rounds))
    learned = {"error": first_error(load(Path(path)), after)} if how == "learn" else {}
    print(json.dumps({"seconds": found} | learned))
