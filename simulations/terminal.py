"""What all commands share: the console, and how errors end them."""

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from fedmeta.errors import ConfigError, FedmetaError

console = Console()
INTERRUPTED = 130

Overrides = Annotated[list[str] | None, typer.Argument()]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def guard(work: Callable[[], None], debug: bool) -> None:
    """Run a command; its errors become one line and an exit code."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    try:
        work()
    except FedmetaError as e:
        if debug:
            raise
        Console(stderr=True, soft_wrap=True).print(
            f"[bold red]error:[/] {_plain(e)}", highlight=False
        )
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        sys.exit(INTERRUPTED)


def numbers(text: str, option: str) -> list[int]:
    """Numbers with commas between them; each once."""
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise ConfigError(f"{option} must be numbers such as 0,1,2, got {text!r}")
    return list(dict.fromkeys(int(part) for part in text.split(",")))


def _plain(error: Exception) -> str:
    return escape(" ".join(str(error).split()))
