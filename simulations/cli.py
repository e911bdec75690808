"""The command line."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console as RichConsole

from fedmeta.errors import ConfigError, FedmetaError
from fedmeta.packages import require

app = typer.Typer(
    help="Federated meta-learning: simulate, deploy, compare.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = RichConsole()
INTERRUPTED = 130

Overrides = Annotated[list[str] | None, typer.Argument()]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


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


@app.command()
def compare(
    words: Annotated[list[str], typer.Argument(metavar="CONFIG... [KEY=VALUE...]")],
    seeds: Annotated[
        str | None, typer.Option(help="Seeds of every config, such as 0,1,2; else its own.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of rows, runs, table and picture.")] = Path(
        "runs/compare"
    ),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 2,
    full: Annotated[
        bool, typer.Option("--full", help="As many rounds as the paper of each config.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run several configs side by side; what is finished is not run again.

    Words with = are overrides of all of them. The table has every row in the --out folder.
    """
    guard(lambda: _compare(words, seeds, out, jobs, full), debug)


@app.command()
def shards(
    config: Annotated[Path, typer.Argument()],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("shards"),
    clients: Annotated[
        str | None, typer.Option(help="Clients of the config's federation, such as 0,3,7.")
    ] = None,
    from_folder: Annotated[
        Path | None, typer.Option(help="Pictures of your own: FOLDER/CLASS/NAME.png.")
    ] = None,
    from_csv: Annotated[
        Path | None, typer.Option(help="Rows of your own: numbers below a line of column names.")
    ] = None,
    target: Annotated[
        str, typer.Option(help="Column of a --from-csv table that is predicted.")
    ] = "target",
    client: Annotated[int, typer.Option(min=0, help="Who you are among the clients.")] = 0,
    split: Annotated[
        str, typer.Option(help="Whether you train, or are among the unseen: train, val or test.")
    ] = "train",
    invert: Annotated[
        bool, typer.Option("--invert", help="Bright for dark, in pictures of a folder.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Write private shards as files that devices can hold.

    Of clients in the federation of CONFIG, or of data of your own for an experiment such as CONFIG.
    """
    own = Own(from_folder, from_csv, target, client, split, invert)
    guard(lambda: _shards(config, overrides or [], out, clients, own), debug)


@app.command()
def adapt(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    shard: Annotated[
        Path, typer.Option(help="File of your own examples; fedmeta shards makes it.")
    ],
    steps: Annotated[
        int | None, typer.Option(help="Inner steps; else evaluation.steps of the run.")
    ] = None,
    hold_out: Annotated[
        int, typer.Option(help="Examples of each class, or rows, to keep from it and judge by.")
    ] = 0,
    out: Annotated[Path, typer.Option(help="File of the personal model.")] = Path(
        "personal.safetensors"
    ),
    debug: Debug = False,
) -> None:
    """Adapt what the run folder RUN has learned to your own examples: a personal model."""
    guard(lambda: _adapt(run, shard, steps, hold_out, out), debug)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL")],
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...")],
    invert: Annotated[bool, typer.Option("--invert", help="Bright for dark, in pictures.")] = False,
    target: Annotated[
        str | None, typer.Option(help="Column of CSV files to leave out, and show beside.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Predict with the personal model MODEL.

    INPUT are pictures, CSV files whose rows are examples, or shard files.
    """
    guard(lambda: _predict(model, inputs, invert, target), debug)


@app.command()
def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL|RUN")],
    format: Annotated[str, typer.Option(help="onnx, torch-export or executorch.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to; else beside the model, with another suffix.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a personal model for the edge, or what a run folder has learned before any adaptation.

    It is written once its outputs are those of the original. It takes any number of examples, float32.
    """
    guard(lambda: _export(model, format, out), debug)


@app.command("list")
def list_() -> None:
    """Show learners, models, datasets, strategies and engines, with their papers."""
    from simulations.listing import tables

    for table in tables():
        console.print(table)


def guard(work: Callable[[], None], debug: bool) -> None:
    """Run a command; its errors become one line and an exit code."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    try:
        work()
    except FedmetaError as e:
        if debug:
            raise
        RichConsole(stderr=True, soft_wrap=True).print(
            f"[bold red]error:[/] {_plain(e)}", highlight=False
        )
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        RichConsole(stderr=True).print("interrupted")
        sys.exit(INTERRUPTED)


def _run(
    config: str | None, overrides: list[str], resume: Path | None, run_dir: Path | None, dry: bool
) -> None:
    require("fedmeta", "server", "scipy", "matplotlib")
    from fedmeta.logs import log_to
    from fedmeta.tracking.console import Console
    from simulations.run import run
    from strategies.opening import open_new, open_old

    if config is not None and "=" in config and not Path(config).exists():
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
    from simulations.listing import result_tables

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
    from simulations.listing import result_tables
    from simulations.run import evaluate_again

    summary = evaluate_again(folder, overrides)
    console.print(*result_tables(summary), sep="\n")


@dataclass(frozen=True)
class Own:
    """Where data of one's own are, and whose they are."""

    folder: Path | None
    table: Path | None
    target: str
    client: int
    split: str
    invert: bool


def _shards(config: Path, overrides: list[str], out: Path, clients: str | None, own: Own) -> None:
    from fedmeta.config import load
    from fedmeta.data.federation import MOST_CLIENTS, SPLITS
    from fedmeta.data.own_files import shard_of_folder, shard_of_table
    from simulations.shards import table_of, take_shards, write_shards

    sources = {"--clients": clients, "--from-folder": own.folder, "--from-csv": own.table}
    if len(given := [name for name, value in sources.items() if value is not None]) != 1:
        raise ConfigError(f"give one of {', '.join(sources)}, got {' and '.join(given) or 'none'}")
    if own.split not in SPLITS:
        raise ConfigError(f"--split must be one of {', '.join(SPLITS)}, got {own.split!r}")
    if own.client >= (most := len(SPLITS) * MOST_CLIENTS):
        raise ConfigError(f"--client must be 0 to {most - 1:,}, got {own.client}")
    experiment = load(config, overrides)
    data, name = experiment.data, experiment.sections["data"]["name"]
    if own.folder is not None:
        found = [shard_of_folder(own.folder, data, name, own.client, own.split, own.invert)]
    elif own.table is not None:
        found = [shard_of_table(own.table, own.target, data, name, own.client, own.split)]
    else:
        found = take_shards(experiment, numbers(str(clients), "--clients"))
    paths = write_shards(found, out)
    console.print(table_of(found, paths))
    console.print(f"folder: {out}", soft_wrap=True)


def _adapt(run: Path, shard: Path, steps: int | None, hold_out: int, out: Path) -> None:
    from fedmeta.adapting import adapt
    from fedmeta.data.shard import read_shard
    from fedmeta.personal import write_personal
    from simulations.personal import free, read_run, scores

    experiment, params = read_run(run)
    free(out)
    found = adapt(experiment, params, read_shard(shard), steps, hold_out)
    write_personal(found.personal, out)
    console.print(scores(found))
    if not found.held_out:
        console.print("Of others they say nothing: --hold-out N keeps some apart to judge by.")
    console.print(f"adapted to {found.examples} examples: {out}", soft_wrap=True, highlight=False)


def _predict(model: Path, inputs: list[Path], invert: bool, target: str | None) -> None:
    from fedmeta.personal import read_personal
    from simulations.personal import predictions, read_inputs

    personal = read_personal(model)
    read = [read_inputs(path, personal.experiment, invert, target) for path in inputs]
    console.print(predictions(personal, read))


def _export(path: Path, name: str, out: Path | None) -> None:
    from fedmeta.checkpoint import write_atomically
    from simulations.export import export, format_named
    from simulations.personal import free, original

    form = format_named(name)
    model, source = original(path)
    out = out or source.with_suffix(form.suffix)
    free(out)
    found = export(model, form)
    write_atomically(out, found.content)
    for line in found.remarks:
        console.print(line, soft_wrap=True, highlight=False)
    console.print(f"{name}: {out}", soft_wrap=True, highlight=False)


def _compare(words: list[str], seeds: str | None, out: Path, jobs: int, full: bool) -> None:
    require("fedmeta", "server", "scipy", "matplotlib")
    from fedmeta.checkpoint import write_atomically
    from simulations.compare import cells, read_row, run_all
    from simulations.results import draw_curves, markdown_table, results, terminal_table

    overrides = [word for word in words if "=" in word and not Path(word).exists()]
    configs = [Path(word) for word in words if word not in overrides]
    if not configs:
        raise ConfigError("give one config or more")
    if seeds is not None and any(override.startswith("seed=") for override in overrides):
        raise ConfigError("seed must not be given with --seeds")
    todo = cells(
        configs, overrides, None if seeds is None else numbers(seeds, "--seeds"), full, out
    )
    failed = run_all(todo, jobs, lambda line: console.print(line, soft_wrap=True))
    found = results([read_row(path) for path in sorted((out / "rows").glob("*.json"))])
    if found:
        write_atomically(out / "table.md", markdown_table(found).encode())
        draw_curves(found, out / "curves.png")
        console.print(terminal_table(found))
        console.print(f"table:   {out / 'table.md'}", soft_wrap=True)
        console.print(f"picture: {out / 'curves.png'}", soft_wrap=True)
    if failed:
        raise FedmetaError(f"{len(failed)} of {len(todo)} runs failed: {', '.join(failed)}")


def numbers(text: str, option: str) -> list[int]:
    """Numbers with commas between them; each once."""
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise ConfigError(f"{option} must be numbers such as 0,1,2, got {text!r}")
    return list(dict.fromkeys(int(part) for part in text.split(",")))


def _plain(error: Exception) -> str:
    from rich.markup import escape

    return escape(" ".join(str(error).split()))


def main() -> None:
    """The entry point of the ``fedmeta`` command."""
    app()
