"""``make federation``: a config on a real Flower deployment, every node with shards of its own."""

import argparse
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from fedmeta.config import Experiment
from fedmeta.data.federation import SPLITS
from fedmeta.errors import FedmetaError, RunFolderError
from fedmeta.run_folder import new_run_folder
from simulations.loopback import Loopback, Node
from simulations.shards import take_shards, write_shards
from simulations.terminal import console, guard
from strategies.opening import open_config

CHECKOUT = Path(__file__).parents[1]
TERMINATED = 143


def deploy(config: Path, overrides: Sequence[str], nodes: int, chosen: Path | None) -> None:
    """Deal the clients out to nodes, start the federation, run the config over it, and stop it.

    All that it leaves lies in one folder: the nodes' shards, states and logs, the federation's
    certificates and logs, and the run folder. Raises FedmetaError if the run does not get to its end.
    """
    experiment = open_config(config, overrides)
    folder = new_run_folder(f"{experiment.name}-federation", chosen).resolve()
    app = write_app(folder / "app", config)
    settings = {"config": f"configs/{config.name}", "overrides": " ".join(overrides)}
    run = folder / "run"
    with Loopback(folder / "federation", deal(experiment, nodes, folder)) as federation:
        print(f"{nodes} SuperNodes are online at 127.0.0.1:{federation.port}", flush=True)
        command = federation.launch(app, settings | {"run-dir": str(run)}, captured=False)
        try:
            command.wait()
        finally:
            command.kill()
    if not (run / "summary.json").exists():
        raise FedmetaError(
            f"the run did not get to its end; the logs are in {folder / 'federation'}"
        )
    console.print(f"devices' logs: {folder / 'node*' / 'log.txt'}", soft_wrap=True, highlight=False)


def deal(experiment: Experiment, nodes: int, folder: Path) -> list[Node]:
    """Write the clients' shards into a folder for each node, in turns."""
    federation = experiment.data.open(experiment.seed, torch.device("cpu"), torch.float64)
    clients = [int(client) for split in SPLITS for client in federation.clients(split)]
    dealt = []
    for index in range(nodes):
        name = f"node{index}"
        place = folder / name
        write_shards(take_shards(experiment, clients[index::nodes]), place / "shards")
        config = {"shard": place / "shards", "states": place / "states", "log": place / "log.txt"}
        dealt.append(Node(name, {key: str(path) for key, path in config.items()}))
    return dealt


def write_app(folder: Path, config: Path) -> Path:
    """The app that ``flwr run`` bundles: what a checkout has, with this one config and no code."""
    if not (project := CHECKOUT / "pyproject.toml").exists():
        raise RunFolderError(f"{CHECKOUT}: is not a checkout of fedmeta, it has no pyproject.toml")
    (folder / "configs").mkdir(parents=True)
    shutil.copy(project, folder)
    shutil.copy(config, folder / "configs" / config.name)
    return folder


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m simulations.federation", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", help="key=value, such as rounds=5")
    parser.add_argument("--nodes", type=int, default=3, help="SuperNodes to start")
    parser.add_argument("--out", type=Path, help="folder to make; else runs/NAME-federation/TIME")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # so that all parts are stopped
    guard(lambda: deploy(given.config, given.overrides, given.nodes, given.out), debug=False)


if __name__ == "__main__":
    main()
