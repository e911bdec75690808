"""The trials of a sweep on a pool of workers: the driver proposes them, and stops those without hope."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from rich.console import Console

from fedmeta.errors import ConfigError, FedmetaError, RunFolderError
from fedmeta.packages import require
from fedmeta.tracking.place import Place
from simulations.cells import Cell
from simulations.progress_view import ProgressView
from simulations.sweep.file import Sweep, Values
from simulations.sweep.shown import shown_score, shown_value
from simulations.sweep.study import FILE, Outcome, Study
from simulations.sweep.trial import Job, run_trial, score, selected, validations

Heard = Callable[[Cell], None]


class Search:
    """A sweep in its folder. Raises RunFolderError where that is taken by another."""

    def __init__(self, sweep: Sweep, out: Path) -> None:
        if not (out / FILE).exists() and (out / "runs").exists():
            raise RunFolderError(f"{out}: holds other runs; choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        self._sweep, self._out, self._study = sweep, out, Study(sweep, out)
        self._cells: dict[str, list[Cell]] = {}
        self._numbers: dict[str, int] = {}

    @property
    def done(self) -> int:
        """Trials that have come to an end."""
        return len(self._study) - len(list(self._study.begun()))

    @property
    def left(self) -> int:
        """Trials that have not come to an end."""
        return max(0, self._sweep.trials - len(self._study)) + len(list(self._study.begun()))

    def jobs(self, say: Callable[[str, str], None]) -> Iterator[Job]:
        """First what an earlier call had begun. ``say`` hears why a trial makes no valid config."""
        for number, values in self._proposed():
            name = f"{self._sweep.name}-{number:03d}"
            try:
                cells = self._cells_of(name, number, values)
            except ConfigError as e:
                self._study.fail(number, str(e))
                say(name, f"failed: {e}")
                continue
            self._cells[name], self._numbers[name] = cells, number
            yield Job(name, [cell.task for cell in cells])

    def watch(self, job: Job) -> None:
        """Hear what the first run of a trial says, and stop it where it has no hope.

        What is decided depends on the rows and on the trials that have finished: with one job not on when
        the rows are read, with more jobs on which trial ends first.
        """
        task = job.tasks[0]
        for row in [] if job.stop.exists() else validations(task.folder):
            last, number = row["round"] == task.rounds, self._numbers[job.name]
            if row["missing"] or last:
                continue
            if self._study.hopeless(number, row["round"], score(row)):
                job.stop.write_text(f"pruned after round {row['round']}\n")
                return

    def end(self, job: Job, seconds: float, failure: str) -> str:
        """A trial is over; what there is to say."""
        self.watch(job)
        number = self._numbers[job.name]
        if job.stop.exists():
            self._study.prune(number, seconds)
            return job.stop.read_text().strip()
        try:
            if failure:
                raise FedmetaError(failure)
            found = [_selected(cell) for cell in self._cells[job.name]]
        except FedmetaError as e:
            self._study.fail(number, str(e), seconds)
            return f"failed: {e}"
        scores = [one for _, one in found]
        self._study.complete(number, scores, found[0][0], seconds)
        return f"{shown_score(fmean(scores), self._sweep.measure)}, {seconds:.1f} s"

    def cells(self, job: Job) -> list[Cell]:
        """The runs of a trial that were begun."""
        return [cell for cell in self._cells[job.name] if cell.folder.exists()]

    def outcomes(self) -> list[Outcome]:
        """All trials, by number."""
        return self._study.outcomes()

    def _proposed(self) -> Iterator[tuple[int, Values]]:
        yield from self._study.begun()
        while len(self._study) < self._sweep.trials:
            yield self._study.ask()

    def _cells_of(self, name: str, number: int, values: Values) -> list[Cell]:
        """One for each seed. Raises ConfigError."""
        first, group = self._sweep.probe.seed, self._sweep.probe.tracking.wandb.group
        labels = {key: shown_value(value) for key, value in values.items()}
        base = self._sweep.base.as_posix()
        place = Place(f"trial {number}", labels, base, group or self._sweep.name)
        seeds = range(first, first + self._sweep.seeds)
        return [
            Cell(self._sweep.experiment(values, name, seed), place, self._out) for seed in seeds
        ]


def _selected(cell: Cell) -> tuple[int, float]:
    """The round that a run selects and its score there. Raises FedmetaError where there is none."""
    if not cell.folder.exists():
        raise FedmetaError(
            f"{cell.folder} has not arrived: all machines of the Ray cluster must share --out"
        )
    return selected(cell.experiment, validations(cell.folder))


def run_sweep(
    search: Search,
    jobs: int | None,
    console: Console,
    address: str | None = None,
    ended: Heard = lambda cell: None,
) -> None:
    """Run the trials that are left, ``jobs`` at a time; ``ended`` hears of every run that is over."""
    if not (left := search.left):
        return
    require("fedmeta sweep", "simulation", "ray")
    from simulations.executors.pool import Pool  # ray is imported where it is needed

    with (
        Pool(min(left, jobs) if jobs else None, address) as pool,
        ProgressView(console, left) as view,
    ):

        def tick(running: Sequence[Job]) -> None:
            for job in running:
                search.watch(job)
            view.look([replace(job.current, name=job.name) for job in running])

        for done in pool.run(run_trial, search.jobs(view.say_end), tick):
            view.say_end(done.job.name, search.end(done.job, done.seconds, done.failure))
            for cell in search.cells(done.job):
                ended(cell)
