"""Flower's FedAvg as it is; what it does in each round is written down by hooks that it offers."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg, Strategy

SHAPES = {"weight": (4, 3), "bias": (3,)}
CLIPPING, NODES = 5.0, 3
"""Clipping for differential privacy, without noise: good deltas are shorter than this."""
app = ServerApp()


class Witness:
    """Writes a line for each round."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.began = folder, time.monotonic()
        self.partitions: list[int] = []

    def metrics(self, contents: list[RecordDict], weight: str) -> MetricRecord:
        """Whose replies are averaged."""
        records = [next(iter(content.metric_records.values())) for content in contents]
        self.partitions = sorted(int(str(record["partition"])) for record in records)
        return MetricRecord()

    def evaluate(self, number: int, arrays: ArrayRecord) -> None:
        """A round has ended."""
        seconds = round(time.monotonic() - self.began, 1)
        line = {"round": number, "seconds": seconds, "averaged": self.partitions}
        with (self.folder / "rounds.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.partitions = []


@app.main()
def main(grid: Grid, context: Context) -> None:
    """A run from zeros to the final model."""
    config = context.run_config
    witness = Witness(Path(str(config["out"])))
    first = {name: Array(np.zeros(shape, "float32")) for name, shape in SHAPES.items()}
    strategy: Strategy = FedAvg(fraction_evaluate=0.0, train_metrics_aggr_fn=witness.metrics)
    if config["clip"] == "yes":
        strategy = DifferentialPrivacyServerSideFixedClipping(strategy, 0.0, CLIPPING, NODES)
    result = strategy.start(
        grid,
        ArrayRecord(first),
        num_rounds=int(config["rounds"]),
        timeout=float(config["timeout"]),
        evaluate_fn=witness.evaluate,
    )
    final = {name: array.numpy() for name, array in result.arrays.items()}
    np.savez(witness.folder / "final.npz", allow_pickle=False, **final)
