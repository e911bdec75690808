"""``fedmeta compare``: the cells of a grid on a pool of workers, one row of results for each.

A row is written when its cell ends and is not run again; a cell that was cut short goes on from its
checkpoint. One that fails takes no other with it.
"""

from collections.abc import Callable, Sequence

from rich.console import Console

from fedmeta.packages import require
from fedmeta.run_folder import write_lines
from simulations.cells import Cell, Task, run_task
from simulations.progress_view import ProgressView
from simulations.rows import failed_row


def run_all(
    cells: Sequence[Cell],
    jobs: int | None,
    console: Console,
    address: str | None = None,
    send: Callable[[Cell], None] = lambda cell: None,
) -> dict[str, str]:
    """Run the cells that are not finished, ``jobs`` at a time; the failed with their reasons.

    ``send`` is called with every cell that has its results, while others go on.
    """
    finished = {cell.name: cell.finished() for cell in cells}
    left = [cell for cell in cells if not finished[cell.name]]
    unsent = [cell for cell in cells if finished[cell.name]]
    console.print(f"{len(unsent)} of {len(cells)} cells are done", highlight=False)
    failed = _run(left, unsent, jobs, console, address, send) if left else {}
    for cell in unsent:
        send(cell)
    return failed


def _run(
    left: Sequence[Cell],
    unsent: list[Cell],
    jobs: int | None,
    console: Console,
    address: str | None,
    send: Callable[[Cell], None],
) -> dict[str, str]:
    require("compare", "simulation", "ray")
    from simulations.executors.pool import Pool  # the one import of ray, where it is needed

    failed: dict[str, str] = {}
    by_name = {cell.name: cell for cell in left}
    with Pool(jobs, address, len(left)) as pool, ProgressView(console, len(left)) as view:
        left[0].row_file.parent.mkdir(parents=True, exist_ok=True)  # which is listed below

        def tick(running: Sequence[Task]) -> None:
            view.look(running)
            if unsent and running:  # while the workers are busy
                send(unsent.pop(0))

        for done in pool.run(run_task, (cell.task for cell in left), tick):
            cell = by_name[done.job.name]
            failure = done.failure or _missing(cell)
            view.end(cell.name, done.seconds, failure)
            if failure:
                failed[cell.name] = failure
                write_lines(cell.row_file, [failed_row(cell.experiment, cell.place, failure)])
            else:
                unsent.append(cell)
    return failed


def _missing(cell: Cell) -> str:
    """What to say where the row of a cell has not arrived.

    The folder is listed first: a network's file system may remember of a single file for a while that it
    was not there.
    """
    if cell.row_file in cell.row_file.parent.iterdir() and cell.finished():
        return ""
    return f"{cell.row_file} has not arrived: all machines of the Ray cluster must share --out"
