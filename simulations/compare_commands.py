"""Commands that run or send many cells: ``compare`` and ``sync``."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedmeta.errors import ConfigError, FedmetaError
from fedmeta.packages import require
from simulations.terminal import Debug, check_out, console, guard, is_override, numbers

if TYPE_CHECKING:
    from fedmeta.tracking.recorder import Row
    from simulations.grid_file import Grid


class Mode(StrEnum):
    """How W&B is told."""

    OFFLINE = "offline"
    ONLINE = "online"

    @property
    def word(self) -> Literal["offline", "online"]:
        """As settings have it."""
        return "offline" if self is Mode.OFFLINE else "online"


@dataclass(frozen=True)
class Options:
    """What ``compare`` may be told besides its configs."""

    out: Path | None
    seeds: str | None
    strategies: str | None
    learners: str | None
    jobs: int | None
    address: str | None
    full: bool
    wandb: Mode | None


def compare(
    words: Annotated[list[str], typer.Argument(metavar="CONFIG|GRID... [KEY=VALUE...]")],
    seeds: Annotated[
        str | None, typer.Option(help="How many seeds, such as 5, or which, such as 0,3,7.")
    ] = None,
    strategies: Annotated[
        str | None,
        typer.Option(help="Names such as fedavg,fedadam: each in place of the config's."),
    ] = None,
    learners: Annotated[
        str | None, typer.Option(help="Names such as maml,reptile: each in place of the config's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the comparison, else one below runs/compare.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cells at a time, else one for each CPU.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to run on: auto or host:port; it shares --out.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="As many rounds as the paper of each config.")
    ] = False,
    wandb: Annotated[
        Mode | None, typer.Option(help="Send all cells to W&B, whatever their configs say.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Run the cells of a grid, or several configs side by side; what is finished is not run again.

    Words with = are overrides of all cells. The table has every row in the folder.
    """
    options = Options(out, seeds, strategies, learners, jobs, address, full, wandb)
    guard(lambda: _compare(words, options), debug)


def sync(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN|COMPARISON...")],
    mode: Annotated[
        Mode | None, typer.Option(help="Else as the config says, online where that says no W&B.")
    ] = None,
    project: Annotated[str | None, typer.Option(help="Of W&B, else the config's.")] = None,
    debug: Debug = False,
) -> None:
    """Send run folders to W&B from their files, whatever W&B heard of them before."""
    guard(lambda: _sync(folders, mode, project), debug)


def _compare(words: list[str], options: Options) -> None:
    require("fedmeta", "server", "scipy", "matplotlib")
    from simulations.compare import run_all
    from simulations.plan import cells_of
    from simulations.rows import read_rows
    from simulations.sync import Sender

    overrides = [word for word in words if is_override(word)]
    if options.seeds is not None and any(override.startswith("seed=") for override in overrides):
        raise ConfigError("seed must not be given with --seeds")
    grids = _grids([Path(word) for word in words if word not in overrides], options)
    out = check_out(options.out or _default_out(grids))
    cells = cells_of(grids, overrides, _seeds(options.seeds), options.full, out)
    mode = options.wandb.word if options.wandb else None
    sender = Sender(mode, lambda line: console.print(line, soft_wrap=True, markup=False))
    if sender.wanted(cells):
        require("tracking.wandb.mode", "server", "wandb")
    try:
        failed = run_all(cells, options.jobs, console, options.address, sender.cell)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from the checkpoints", soft_wrap=True)
        raise
    rows = read_rows([out])
    _show(out, rows)
    sender.table(cells, rows)
    if failed:
        raise FedmetaError(f"{len(failed)} of {len(cells)} cells failed: {', '.join(failed)}")


def _grids(configs: Sequence[Path], options: Options) -> "list[Grid]":
    """Of grid files and configs; with names of components, all configs are one grid."""
    from simulations.axes import Axis
    from simulations.grid_file import Grid

    if not configs:
        raise ConfigError("give a grid or a config, or more")
    grids = [Grid.read(path) for path in configs]
    given = (
        ("strategy", "strategies", options.strategies),
        ("learner", "learners", options.learners),
    )
    axes = [
        Axis(section, {name: name for name in _names(text, f"--{option}")})
        for section, option, text in given
        if text is not None
    ]
    if axes and (files := [grid.source for grid in grids if grid.source]):
        raise ConfigError(f"{files[0]}: is a grid, so --strategies and --learners must stand in it")
    return [Grid(configs, axes)] if axes else grids


def _names(text: str, option: str) -> list[str]:
    if not (found := text.replace(",", " ").split()):
        raise ConfigError(f"{option} must be one name or more with commas between, got {text!r}")
    return found


def _default_out(grids: "Sequence[Grid]") -> Path:
    """A folder for every grid; configs side by side share one."""
    first, common = grids[0], Path("runs/compare")
    if len(grids) > 1 or not (first.source or first.axes):
        return common
    return common / (first.name or "-".join(base.stem for base in first.bases))


def _seeds(text: str | None) -> list[int] | None:
    """``5`` are five seeds, from 0 on; ``0,3,7`` are these."""
    if text is None:
        return None
    found = numbers(text, "--seeds")
    if "," not in text and not found[0]:
        raise ConfigError(f"--seeds must be 1 or more, or seeds such as 0,3,7, got {text!r}")
    return found if "," in text else list(range(found[0]))


def _show(out: Path, rows: "Sequence[Row]") -> None:
    """The table, on the terminal and as a file, and the pictures."""
    from simulations.results import write_results

    for shown in write_results(out, rows):
        console.print(shown, soft_wrap=isinstance(shown, str))


def _sync(folders: Sequence[Path], mode: Mode | None, project: str | None) -> None:
    require("sync", "server", "wandb", "scipy", "matplotlib")
    from simulations.sync import sync

    for line in sync(folders, mode.word if mode else None, project):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
