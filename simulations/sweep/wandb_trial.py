"""``python -m simulations.sweep.wandb_trial``: one trial of a sweep by W&B, as its agent starts it."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from fedmeta.config import Experiment
from fedmeta.errors import ConfigError
from fedmeta.logs import log_to
from fedmeta.run_folder import new_run_folder
from simulations.sweep.file import Sweep
from simulations.sweep.trial import run_alone
from simulations.terminal import console, guard

ONLINE = "tracking.wandb.mode=online"


def read_trial(file: Path, overrides: Sequence[str], words: Sequence[str]) -> Experiment:
    """The experiment of a sweep file with values such as ``learner.inner_lr=0.1``. Raises ConfigError."""
    sweep = Sweep.read(file, [ONLINE, *overrides])
    texts = {key: text for key, _, text in (word.partition("=") for word in words)}
    if texts.keys() != sweep.space.keys():
        raise ConfigError(
            f"values must be given for {', '.join(sweep.space)}, got {', '.join(texts)}"
        )
    return sweep.experiment({key: sweep.space[key].read(texts[key]) for key in texts}, sweep.name)


def _run(file: Path, out: Path, overrides: Sequence[str], words: Sequence[str]) -> None:
    experiment = read_trial(file, overrides, words)
    id = os.environ.get("WANDB_RUN_ID", "alone")
    folder = new_run_folder(experiment.name, out / "runs" / f"{experiment.name}-{id}")
    log_to(folder, console)
    run_alone(experiment, False, folder)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description=__doc__)
    parser.add_argument("file", type=Path, help="the sweep file")
    parser.add_argument("out", type=Path, help="folder of the sweep")
    parser.add_argument("--override", action="append", default=[], help="key=value of every trial")
    parser.add_argument("words", nargs="*", help="key=value of this trial")
    given = parser.parse_intermixed_args()
    guard(lambda: _run(given.file, given.out, given.override, given.words), debug=False)


if __name__ == "__main__":
    main()
