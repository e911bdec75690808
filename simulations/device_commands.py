"""Commands for devices and their owners: what they hold, and what they do after training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fedmeta.errors import ConfigError
from simulations.terminal import Debug, Overrides, console, guard, numbers


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
        str | None,
        typer.Option(help="Of data of your own: train (without it), or unseen: val or test."),
    ] = None,
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


@dataclass(frozen=True)
class Own:
    """Where data of one's own are, and whose they are."""

    folder: Path | None
    table: Path | None
    target: str
    client: int
    split: str | None
    invert: bool


def _shards(config: Path, overrides: list[str], out: Path, clients: str | None, own: Own) -> None:
    from fedmeta.config import load
    from fedmeta.data.federation import MOST_CLIENTS, SPLITS
    from fedmeta.data.own_files import shard_of_folder, shard_of_table
    from simulations.shards import table_of, take_shards, write_shards

    sources = {"--clients": clients, "--from-folder": own.folder, "--from-csv": own.table}
    if len(given := [name for name, value in sources.items() if value is not None]) != 1:
        raise ConfigError(f"give one of {', '.join(sources)}, got {' and '.join(given) or 'none'}")
    if clients is not None and own.split is not None:
        raise ConfigError(
            "--split is for data of your own: --clients are of the splits they are of"
        )
    split = own.split or "train"
    if split not in SPLITS:
        raise ConfigError(f"--split must be one of {', '.join(SPLITS)}, got {split!r}")
    if own.client >= (most := len(SPLITS) * MOST_CLIENTS):
        raise ConfigError(f"--client must be 0 to {most - 1:,}, got {own.client}")
    experiment = load(config, overrides)
    data, name = experiment.data, experiment.sections["data"]["name"]
    if own.folder is not None:
        found = [shard_of_folder(own.folder, data, name, own.client, split, own.invert)]
    elif own.table is not None:
        found = [shard_of_table(own.table, own.target, data, name, own.client, split)]
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

    (experiment, params), mine = read_run(run), read_shard(shard)
    free(out)
    found = adapt(experiment, params, mine, steps, hold_out)
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
