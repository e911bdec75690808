"""The Flower ServerApp: ``flwr run . --run-config 'config="configs/quickstart.yaml"'``."""

import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from rich.console import Console as RichConsole

from fedmeta.errors import ConfigError, FedmetaError
from fedmeta.logs import log_to
from fedmeta.run_folder import taken_back
from fedmeta.tracking import build_recorders
from fedmeta.tracking.console import Console
from fedmeta.tracking.recorder import Recorders
from strategies.opening import open_new, open_old
from strategies.result_tables import result_tables
from strategies.server import federate
from strategies.state import CHECKPOINT

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run config names: ``config``, ``overrides``, ``run-dir``, ``resume``.

    What is resumed needs no config: it goes on with that of its folder.
    """
    try:
        _run(grid, {key: str(value) for key, value in context.run_config.items()})
    except FedmetaError:
        sys.tracebacklimit = 0  # Flower logs what is raised, and a person needs the message alone
        raise


def _run(grid: Grid, settings: Mapping[str, str]) -> None:
    overrides = settings["overrides"].split()
    config = bundled(settings["config"]) if settings["config"] else None
    if settings["resume"]:
        experiment, folder = open_old(Path(settings["resume"]), config, overrides)
    elif config is None:
        raise ConfigError(
            "give --run-config a config, such as 'config=\"configs/federation.yaml\"'"
        )
    else:
        chosen = Path(settings["run-dir"]) if settings["run-dir"] else None
        experiment, folder = open_new(config, overrides, chosen)
    console = RichConsole()
    with taken_back(folder, folder / CHECKPOINT):
        if (attack := experiment.attack.name) != "none":
            raise ConfigError(f"attack.name must be none outside simulation, got {attack}")
        if (slowness := experiment.devices.slowness) != "none":
            raise ConfigError(f"devices.slowness must be none outside simulation, got {slowness}")
        log_to(folder, console)
        recorders = Recorders([Console(console), *build_recorders(experiment.tracking)])
        wait, resume = experiment.cohort.wait, bool(settings["resume"])
        found = federate(experiment, grid, folder, recorders, resume, wait)
    console.print(*result_tables(found.summary), sep="\n")
    console.print(f"run folder: {folder.resolve()}", soft_wrap=True)


def bundled(config: str) -> Path:
    """A config inside the bundle, which Flower puts first on the module search path."""
    path = PurePosixPath(config)
    if path.is_absolute() or ".." in path.parts:
        raise ConfigError(f"config must be a path inside the bundle, got {config!r}")
    for folder in sys.path:
        if (found := Path(folder) / path).is_file():
            return found
    raise ConfigError(f"config: the bundle has no {config}")
