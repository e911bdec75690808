"""From a config or a run folder to an experiment and the folder it writes into."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmeta.config import Experiment, load, parse
from fedmeta.errors import ConfigError, RunFolderError
from fedmeta.run_folder import new_run_folder
from strategies.fitting import check_fit
from strategies.state import CONFIG, load_state
from strategies.stock import STRATEGIES


def open_config(config: Path, overrides: Sequence[str]) -> Experiment:
    """An experiment whose strategy can be built; devices are looked for where the clients are."""
    experiment = load(config, overrides, STRATEGIES)
    check_fit(experiment)
    return experiment


def open_mapping(sections: Mapping[str, Any], overrides: Sequence[str], source: str) -> Experiment:
    """The same of what would stand in a config file; ``source`` says where it comes from."""
    experiment = parse(sections, overrides, STRATEGIES, source)
    check_fit(experiment)
    return experiment


def open_new(
    config: Path, overrides: Sequence[str], chosen: Path | None
) -> tuple[Experiment, Path]:
    """The experiment of a config file and a new folder for it."""
    experiment = open_config(config, overrides)
    return experiment, new_run_folder(experiment.name, chosen)


def open_old(
    folder: Path, config: Path | None, overrides: Sequence[str]
) -> tuple[Experiment, Path]:
    """The experiment of a run folder, or of a config that must agree with its checkpoint."""
    saved = config_of(folder)
    experiment = open_config(config or saved, overrides)
    behind = load_state(folder, experiment).round
    if experiment.rounds < behind:
        raise ConfigError(
            f"rounds must be at least the {behind} rounds behind, got {experiment.rounds}"
        )
    return experiment, folder


def open_run(folder: Path) -> Experiment:
    """The experiment of a run folder, finished or not. Raises RunFolderError where it is none."""
    return open_config(config_of(folder), [])


def config_of(folder: Path) -> Path:
    """The config that a run folder holds. Raises RunFolderError where there is none."""
    if not (saved := folder / CONFIG).exists():
        raise RunFolderError(f"{folder}: is not a run folder, it has no {CONFIG}")
    return saved
