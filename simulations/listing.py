"""Tables for the terminal: what there is."""

import inspect
from collections.abc import Iterator, Mapping

from rich.table import Table

from fedmeta.data import DATASETS
from fedmeta.engines import ENGINES
from fedmeta.learners import LEARNERS
from fedmeta.models import MODELS
from fedmeta.plugins import load_plugins
from strategies.stock import STRATEGIES

KINDS: dict[str, Mapping[str, type]] = {
    "learner": LEARNERS,
    "model": MODELS,
    "dataset": DATASETS,
    "strategy": STRATEGIES,
    "engine": ENGINES,
}


def tables() -> Iterator[Table]:
    """One table of names and first docstring lines; the docstrings carry the papers."""
    load_plugins()
    for kind, members in KINDS.items():
        table = Table(kind, "what it is", title_justify="left", expand=False)
        for name, member in sorted(members.items()):
            table.add_row(name, _first_paragraph(member))
        yield table


def _first_paragraph(member: type) -> str:
    text = (inspect.getdoc(member) or "").split("\n\n")[0]
    return text.replace("\n", " ").replace("``", "")
