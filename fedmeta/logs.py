"""Where log lines go: the screen shows warnings, scores and the choice of an engine, the file all."""

import logging
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from fedmeta.errors import RunFolderError

FILE = "log.txt"
SHOWN = ("fedmeta.console", "fedmeta.engines.planner")


def log_to(folder: Path, console: Console) -> None:
    """Log into the run folder."""
    logging.raiseExceptions = False  # a full disk is said by the checkpoint, once and in one line
    screen = RichHandler(console=console, show_path=False, show_time=False, markup=False)
    screen.addFilter(lambda r: r.levelno >= logging.WARNING or r.name in SHOWN)
    try:
        file = logging.FileHandler(folder / FILE)
    except OSError as e:
        raise RunFolderError(f"{folder / FILE}: cannot be written ({e.strerror or e})") from e
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("fedmeta", "strategies", "simulations"):
        logger = logging.getLogger(name)
        for old in logger.handlers:
            old.close()
        logger.setLevel(logging.INFO)
        logger.handlers = [screen, file]
        logger.propagate = False
