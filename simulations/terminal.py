"""What all commands share: the console, and how errors end them."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from fedmeta.errors import ConfigError, FedmetaError, InputError, RunFolderError

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
        _end(str(e), e.exit_code)
    except OSError as e:
        if debug or e.filename is None:
            raise
        _end(f"{e.filename}: {e.strerror}", InputError.exit_code)  # a path that somebody gave
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        sys.exit(INTERRUPTED)


def numbers(text: str, option: str) -> list[int]:
    """Numbers with commas between them; each once."""
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise ConfigError(f"{option} must be numbers such as 0,1,2, got {text!r}")
    return list(dict.fromkeys(int(part) for part in text.split(",")))


def is_override(word: str) -> bool:
    """Whether a word is key=value; the name of a file may have a = too."""
    return "=" in word and not os.path.exists(word)  # no word is too long for this one


def check_out(out: Path) -> Path:
    """A folder that is there or can be made. Raises RunFolderError before any work is lost."""
    found = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not found.is_dir():
        raise RunFolderError(f"--out must be a folder, old or new, got {out}: {found} is a file")
    return out


def _end(message: str, code: int) -> None:
    line = escape(" ".join(message.split()))
    Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {line}", highlight=False)
    sys.exit(code)
