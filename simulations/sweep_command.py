"""``fedmeta sweep``: hyperparameter search, by Optuna on this machine or by W&B."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmeta.errors import FedmetaError
from fedmeta.packages import require
from simulations.compare_commands import Mode
from simulations.terminal import Debug, Overrides, check_out, console, guard

if TYPE_CHECKING:
    from simulations.sweep.file import Sweep
    from simulations.sweep.search import Search


def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP")],
    overrides: Overrides = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Instead of the file's.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the sweep, else runs/sweep/NAME.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Trials at a time, else one for each CPU.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to run on: auto or host:port; it shares --out.")
    ] = None,
    wandb: Annotated[
        Mode | None,
        typer.Option(help="online: W&B proposes the trials. offline: all are written for W&B."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Search the settings of SWEEP, a file such as configs/sweep_sinusoid.yaml, on validation clients.

    OVERRIDES are key=value, for all trials. Given again, it goes on up to the number of trials.
    """
    guard(lambda: _sweep(file, overrides or [], trials, out, jobs, address, wandb), debug)


def _sweep(
    file: Path,
    overrides: list[str],
    trials: int | None,
    out: Path | None,
    jobs: int | None,
    address: str | None,
    wandb: Mode | None,
) -> None:
    require("fedmeta sweep", "server", "scipy", "matplotlib")
    from simulations.sweep.file import Sweep

    found = Sweep.read(file, overrides)
    found = replace(found, trials=trials or found.trials)
    out = check_out(out or Path("runs/sweep") / found.name)
    if wandb is Mode.ONLINE:
        require("fedmeta sweep --wandb", "server", "wandb")
        from simulations.sweep.wandb_sweep import run_wandb_sweep

        run_wandb_sweep(found, out, jobs, console, address)
        return
    require("fedmeta sweep", "sweep", "optuna")
    from simulations.sweep.search import Search, run_sweep
    from simulations.sync import Sender

    search = Search(found, out)
    mode = wandb.word if wandb else None
    if mode or found.probe.tracking.wandb.mode != "disabled":
        require("tracking.wandb.mode", "server", "wandb")
    sender = Sender(mode, lambda line: console.print(line, soft_wrap=True, markup=False))
    console.print(f"{search.done} of {search.done + search.left} trials are done")
    run_sweep(search, jobs, console, address, sender.cell)
    _show(found, search, out)


def _show(sweep: "Sweep", search: "Search", out: Path) -> None:
    """The table, on the terminal and as a file, the picture, and the config of the best."""
    from fedmeta.checkpoint import write_atomically
    from simulations.sweep.picture import sweep_picture
    from simulations.sweep.shown import best_config, best_table, ranked, trials_csv

    outcomes = search.outcomes()
    write_atomically(out / "trials.csv", trials_csv(sweep, outcomes).encode())
    if not ranked(outcomes, sweep.measure):
        reasons = [outcome.reason for outcome in outcomes if outcome.reason]
        raise FedmetaError(f"no trial has a score: {reasons[0] if reasons else 'all were pruned'}")
    write_atomically(out / "best.yaml", best_config(sweep, outcomes).encode())
    write_atomically(out / "sweep.png", sweep_picture(sweep, outcomes))
    console.print(best_table(sweep, outcomes))
    for what, name in (("trials", "trials.csv"), ("picture", "sweep.png"), ("best", "best.yaml")):
        console.print(f"{what + ':':<9}{out / name}", soft_wrap=True)
