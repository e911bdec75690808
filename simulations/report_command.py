"""``fedmeta report``: what runs that are done say together."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmeta.errors import ConfigError, RunFolderError
from fedmeta.packages import require
from simulations.terminal import Debug, console, guard

if TYPE_CHECKING:
    from fedmeta.tracking.recorder import Row
    from simulations.report.contenders import Problem


class Format(StrEnum):
    """What a report is written as."""

    HTML = "html"
    MD = "md"
    CSV = "csv"
    PNG = "png"


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
    format: Annotated[
        Format | None,
        typer.Option(help="A page, its text, a line per client, a picture; else as --out ends."),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            help="Tell the cost to reach this accuracy, 0 to 1 (or loss, where there is none)."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Compare with this contender, or with those that have this label, alone: fewer tests, "
            "so fewer seeds tell."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write what RUNS say together: who is better and how surely, at what cost, for which clients.

    RUNS are run folders, --out folders of fedmeta compare, or files of rows.
    """
    guard(lambda: _report(runs, out, format, target, against), debug)


def _report(
    runs: Sequence[Path],
    out: Path,
    format: Format | None,
    target: float | None,
    against: str | None,
) -> None:
    require("fedmeta report", "server", "scipy", "matplotlib", "jinja2")
    from fedmeta.checkpoint import write_atomically
    from simulations.rows import read_rows

    kind, rows, given = format or _ending(out), read_rows(runs), ", ".join(map(str, runs))
    if not rows:
        raise RunFolderError(f"{given}: holds no run")
    content = _content(rows, kind, target, against)
    if not content:
        lacking = "scores of single clients" if kind is Format.CSV else "results"
        raise RunFolderError(f"{given}: holds no {lacking}, of which {kind} would consist")
    write_atomically(out, content)
    console.print(f"report: {out}", soft_wrap=True)


def _ending(out: Path) -> Format:
    try:
        return Format(out.suffix.removeprefix("."))
    except ValueError as e:
        allowed = ", ".join(f".{each}" for each in Format)
        raise ConfigError(
            f"--out must end with one of {allowed}, or give --format; got {out}"
        ) from e


def _content(
    rows: Sequence["Row"], kind: Format, target: float | None, against: str | None
) -> bytes:
    from simulations.report.contenders import problems

    found = problems(rows)
    finished = [problem for problem in found if problem.contenders]
    _check(target, [problem.measure for problem in finished])
    if against is not None:
        _check_baseline(against, finished)
    if kind is Format.CSV:
        from simulations.report.clients_csv import clients_csv

        return clients_csv(found).encode()
    if kind is Format.PNG:
        from simulations.report.picture import picture

        return picture(finished, against) if finished else b""
    from simulations.report.made import made, title
    from simulations.report.markdown import markdown_page
    from simulations.report.page import page
    from simulations.report.section import section

    write = page if kind is Format.HTML else markdown_page
    sections = [section(problem, target, against) for problem in found]
    return write(title(found), sections, made(found)).encode()


def _check_baseline(against: str, problems: Sequence["Problem"]) -> None:
    contenders = [contender for problem in problems for contender in problem.contenders]
    known = {name for each in contenders for name in (each.name, *each.labels.values())}
    if against not in known:
        raise ConfigError(
            f"--against must be a contender or a label ({', '.join(sorted(known))}), got {against!r}"
        )


def _check(target: float | None, measures: Sequence[str]) -> None:
    if target is not None and not (0 < target <= 1 or (target > 0 and "accuracy" not in measures)):
        raise ConfigError(f"--target must be an accuracy above 0, at most 1, got {target:g}")
