"""The command line."""

from pathlib import Path
from typing import Annotated

import typer

from fedmeta.errors import ConfigError
from fedmeta.packages import require
from simulations import compare_commands, device_commands, report_command, sweep_command
from simulations.terminal import Debug, Overrides, console, guard, is_override

app = typer.Typer(
    help="Federated meta-learning: simulate, deploy, compare.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    config: Annotated[str | None, typer.Argument()] = None,
    overrides: Overrides = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the run in this folder from its checkpoint.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Write here instead of runs/NAME/TIME.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the config, show it resolved, and stop.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run the federation of CONFIG, a YAML file such as configs/quickstart.yaml.

    OVERRIDES are key=value, applied last: learner.inner_lr=0.02 rounds=500.
    """
    guard(lambda: _run(config, overrides or [], resume, run_dir, dry_run), debug)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="RUN")],
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Score the test clients of the run folder RUN again.

    OVERRIDES are key=value, for example evaluation.steps=20.
    """
    guard(lambda: _evaluate(folder, overrides or []), debug)


for command in (
    compare_commands.compare,
    compare_commands.sync,
    device_commands.shards,
    device_commands.adapt,
    device_commands.predict,
    device_commands.export,
    report_command.report,
    sweep_command.sweep,
):
    app.command()(command)


@app.command("list")
def list_() -> None:
    """Show learners, models, datasets, strategies and engines, with their papers."""
    from simulations.listing import tables

    for table in tables():
        console.print(table)


def _run(
    config: str | None, overrides: list[str], resume: Path | None, run_dir: Path | None, dry: bool
) -> None:
    require("fedmeta", "server", "scipy", "matplotlib")
    from fedmeta.logs import log_to
    from fedmeta.tracking.console import Console
    from simulations.run import run
    from strategies.opening import open_new, open_old

    if config is not None and is_override(config):
        overrides, config = [config, *overrides], None  # --resume RUN key=value
    path = Path(config) if config else None
    if path is None and resume is None:
        raise ConfigError("give a config, or --resume RUN")
    if resume is not None and run_dir is not None:
        raise ConfigError(f"--run-dir {run_dir}: a resumed run stays in its folder, {resume}")
    if dry:
        _show(path or Path(str(resume)) / "config.yaml", overrides)
        return
    if resume is not None:
        experiment, folder = open_old(resume, path, overrides)
    else:
        assert path is not None
        experiment, folder = open_new(path, overrides, run_dir)
    log_to(folder, console)
    try:
        outcome = run(experiment, folder, [Console(console)], resume=resume is not None)
    except KeyboardInterrupt:
        if folder.exists():
            console.print(f"stopped; continue with: fedmeta run --resume {folder}", soft_wrap=True)
        raise
    from strategies.result_tables import result_tables

    console.print(*result_tables(outcome.summary), sep="\n")
    console.print(f"run folder: {folder}", soft_wrap=True)
    for picture in sorted((folder / "plots").glob("*.png")):
        console.print(f"picture:    {picture}", soft_wrap=True)


def _show(path: Path, overrides: list[str]) -> None:
    from strategies.opening import open_config

    experiment = open_config(path, overrides)
    experiment.engine.torch_device()
    console.print(experiment.to_yaml(), highlight=False, soft_wrap=True)


def _evaluate(folder: Path, overrides: list[str]) -> None:
    require("fedmeta", "server", "scipy", "matplotlib")
    from simulations.run import evaluate_again
    from strategies.result_tables import result_tables

    summary = evaluate_again(folder, overrides)
    console.print(*result_tables(summary), sep="\n")


def main() -> None:
    """The entry point of the ``fedmeta`` command."""
    app()
