"""The federations that tests look at."""

import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

from simulations.federation import write_app
from tests.deployment.conftest import CONFIG, Scene, device, experiment_of, play
from tests.flower_simulation import flower, flwr_run

PATIENCE = 600.0
"""Seconds for a federation beside others, on a machine with two cores that has other tests to run."""
PARITY = ("engine.name=loop",)
TRACKED = ("tracking.wandb.mode=offline", "tracking.tensorboard=true")
FAULTS = {"raises": 2, "nan": 3, "shape": 4, "keys": 5, "zero": 6, "huge": 7}
"""What is wrong with the clients 2 to 7; 0 and 1 are well."""
ALTERED, CUT, STRICT = 8, 9, 10
FAULTY = (
    "rounds=2",
    "data.clients.train=11",
    "cohort.clients=9",
    "cohort.wait=1",
    "evaluation.every=2",
    "evaluation.clients=2",
)
"""Of the eleven, two take no part: a shard that is cut short, and an owner who is strict."""


def parity(folder: Path) -> Scene:
    """Three devices, each with clients that train, validate and test."""
    experiment = experiment_of(*PARITY)
    nodes = [device(folder, experiment, f"node{i}", range(i, 12, 3)) for i in range(3)]
    return play(folder, nodes, (*PARITY, *TRACKED), PATIENCE)


def simulated(folder: Path) -> Scene:
    """The same by Flower's own simulation engine."""
    app = write_app(folder / "app", CONFIG)
    with flower(folder) as environment:
        settings = (
            f'config="configs/{CONFIG.name}" overrides="{PARITY[0]}" run-dir="{folder / "run"}"'
        )
        output = flwr_run(app, settings, environment)
    return Scene(folder, experiment_of(*PARITY), output)


def faulty(folder: Path) -> Scene:
    """Everything that can be wrong with a device, each with one of them."""
    experiment = experiment_of(*FAULTY)
    well = [device(folder, experiment, f"well{i}", [i, 11 + i, 14 + i]) for i in range(2)]
    ill = [device(folder, experiment, fault, [client], fault) for fault, client in FAULTS.items()]
    altered = device(folder, experiment, "altered", [ALTERED])
    cut = device(folder, experiment, "cut", [CUT])
    shard = folder / "cut" / "shards" / f"client-{CUT}.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    strict = device(folder, experiment, "strict", [STRICT], max_steps=2)

    Thread(target=alter, args=(folder / "altered",), daemon=True).start()
    return play(folder, [*well, *ill, altered, cut, strict], FAULTY, PATIENCE)


def alter(place: Path) -> None:
    """Flip a bit of a shard once its device has said that it takes part."""
    deadline, log = time.monotonic() + PATIENCE, place / "log.txt"
    while time.monotonic() < deadline:
        if log.exists() and "said which clients are here" in log.read_text():
            (shard,) = (place / "shards").iterdir()
            content = bytearray(shard.read_bytes())
            content[-100] ^= 1
            shard.write_bytes(content)
            return
        time.sleep(0.1)


IN_THE_BACKGROUND: dict[str, Callable[[Path], Scene]] = {
    "parity": parity,
    "simulated": simulated,
    "faulty": faulty,
}
