"""What varies from cell to cell: a key of the config, and by label what stands there."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import MISSING, dataclass, fields
from typing import Any

from fedmeta.config import choose
from fedmeta.data import DATASETS
from fedmeta.errors import ConfigError
from fedmeta.learners import LEARNERS
from fedmeta.models import MODELS
from strategies.stock import STRATEGIES

Sections = Mapping[str, Any]
TABLES: Mapping[str, Mapping[str, type[Any]]] = {
    "data": DATASETS,
    "learner": LEARNERS,
    "model": MODELS,
    "strategy": STRATEGIES,
}
"""Sections that name a component."""


@dataclass(frozen=True)
class Axis:
    """A key of the config, such as ``strategy`` or ``cohort.clients``."""

    key: str
    choices: Mapping[str, Any]
    """By label: a value, or a whole section in place of the base's. For a section that names a
    component its name alone will do: ``named`` says what comes with it. None: as in the base."""

    def apply(self, sections: Sections, label: str) -> dict[str, Any]:
        """The config with that choice made. Raises ConfigError."""
        choice = self.choices[label]
        if choice is None:
            return dict(sections)
        if self.key in TABLES and isinstance(choice, str):
            choice = named(self.key, choice, sections.get(self.key) or {})
        return put(sections, self.key, choice)


def put(sections: Sections, key: str, value: Any) -> dict[str, Any]:
    """The config with a value at a dotted key. Raises ConfigError where the key leads nowhere."""
    found = deepcopy(dict(sections))
    *outer, last = key.split(".")
    place = found
    for part in outer:
        if place.get(part) is None:
            place[part] = {}
        if not isinstance(place := place[part], dict):
            raise ConfigError(f"{key}: {part} is no section, it is {place!r}")
    place[last] = deepcopy(value)
    return found


def named(section: str, name: str, base: Sections) -> dict[str, Any]:
    """A component by name: at its defaults, but with those settings of the base's that it has too.

    Where the defaults of the two differ, that is what makes them two, and the setting stays behind: a
    first-order method is not given the order of the base. A server's rate goes along only to a strategy
    that steps as the base's does. Raises ConfigError where it needs one of its own.
    """
    table, old = TABLES[section], base.get("name")
    if name == old or not {name, old} <= table.keys():
        return dict(base) | {"name": name}
    ours, theirs = _defaults(table[name]), _defaults(table[str(old)])
    alike = {key for key in ours.keys() & theirs.keys() if ours[key] == theirs[key]}
    rate = section == "strategy" and "lr" in ours.keys() & base.keys()
    if rate:
        alike = (alike | {"lr"}) if _step_alike(name, base) else (alike - {"lr"})
    if rate and "lr" not in alike and ours["lr"] is MISSING:
        raise ConfigError(
            f"strategy.lr: {name} steps otherwise than {old}, so it needs a rate of its own; give it in "
            f"a grid file, as strategy: {{{name}: {{name: {name}, lr: ...}}}}"
        )
    return {"name": name} | {key: value for key, value in base.items() if key in alike}


def _defaults(kind: type[Any]) -> dict[str, Any]:
    return {
        each.name: each.default if each.default_factory is MISSING else each.default_factory()
        for each in fields(kind)
    }


def _step_alike(name: str, base: Sections) -> bool:
    """Whether a rate means the same to both: it does to those that follow the delta's length."""
    try:
        old = choose(STRATEGIES, base, "strategy").rules().optimizer.name
        new = choose(STRATEGIES, {"name": name, "lr": 1.0}, "strategy").rules().optimizer.name
    except ConfigError:  # of settings that do not fit: the cell will say so
        return True
    return (old == "SGD") == (new == "SGD")
