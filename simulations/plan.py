"""From grids and configs to cells: all of them, checked before any runs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fedmeta.config import Experiment
from fedmeta.errors import ConfigError
from fedmeta.tracking.place import Place
from simulations.apart import check_apart
from simulations.axes import Sections
from simulations.cells import Cell
from simulations.grid_file import Grid, Setting, check_name, told
from strategies.opening import open_mapping


def cells_of(
    grids: Sequence[Grid],
    overrides: Sequence[str],
    seeds: Sequence[int] | None,
    full: bool,
    out: Path,
) -> list[Cell]:
    """Every setting of every grid with every seed; the grid's own, else the config's, where none is given.

    Cells of one seed are paired by construction: clients, episodes and first params are functions of
    it. Raises ConfigError, which names the grid and the cell.
    """
    return list(_unique(_cells(grids, overrides, seeds, full, out)))


def _cells(
    grids: Sequence[Grid],
    overrides: Sequence[str],
    seeds: Sequence[int] | None,
    full: bool,
    out: Path,
) -> Iterator[Cell]:
    if full and any(override.startswith("rounds=") for override in overrides):
        raise ConfigError("rounds must not be given with --full, which takes each paper's")
    for grid in grids:
        settings = list(grid.settings())
        with told(grid.source):
            _check(grid, settings, overrides, full)
        for setting in settings:
            with told(grid.source or str(setting.base), setting.contender):
                given = [*overrides, *(_rounds(setting.sections, overrides) if full else [])]
                first = open_mapping(setting.sections, given, str(setting.base))
                for seed in (grid.seeds if seeds is None else seeds) or [first.seed]:
                    experiment = _seeded(setting, given, first, seed)
                    name = setting.contender or experiment.name
                    place = Place(name, dict(setting.labels), setting.base.as_posix())
                    cell = Cell(experiment, replace(place, group=_group(experiment, out)), out)
                    check_name(cell.name)
                    yield cell


def _check(grid: Grid, settings: Sequence[Setting], overrides: Sequence[str], full: bool) -> None:
    if not settings:
        raise ConfigError("cases must leave a cell to run, they skip all of them")
    given = {word.partition("=")[0]: f"override {word}" for word in overrides}
    check_apart(grid.varied, given | ({"rounds": "--full"} if full else {}))


def _seeded(setting: Setting, given: Sequence[str], first: Experiment, seed: int) -> Experiment:
    """The experiment with a seed; reading it anew takes long, but for what may look at the seed."""
    if "${" in repr(setting.sections):
        return open_mapping(setting.sections, [*given, f"seed={seed}"], str(setting.base))
    return replace(first, seed=seed, sections=first.sections | {"seed": seed})


def _group(experiment: Experiment, out: Path) -> str:
    """What W&B calls the comparison."""
    return experiment.tracking.wandb.group or out.name


def _rounds(sections: Sections, overrides: Sequence[str]) -> list[str]:
    rounds = open_mapping(sections, overrides, "config").published.rounds
    if rounds is None:
        raise ConfigError("published.rounds must be set for --full, got nothing")
    return [f"rounds={rounds}"]


def _unique(found: Iterator[Cell]) -> Iterator[Cell]:
    seen: dict[str, str] = {}
    for cell in found:
        if cell.name in seen:
            raise ConfigError(
                f"{cell.place.config}: name must differ from that of {seen[cell.name]}, got "
                f"{cell.experiment.name!r} with seed {cell.experiment.seed} twice"
            )
        seen[cell.name] = cell.place.config
        yield cell
