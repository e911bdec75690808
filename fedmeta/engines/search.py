"""The fastest engine for one function on the clients at hand, among those that are right."""

from functools import partial
from typing import Any

from torch.utils._pytree import tree_leaves

from fedmeta.engines import candidates
from fedmeta.engines.loop import Loop
from fedmeta.engines.meter import peak_bytes
from fedmeta.engines.plans import Plan
from fedmeta.engines.trials import Found, Trials
from fedmeta.engines.work import Work
from fedmeta.errors import ConfigError
from fedmeta.settings import EngineSettings

NEAR = 2**26
"""Bytes of tensors that the first chunk takes: some two times a processor's cache."""


class NotFiniteError(Exception):
    """The loop's own numbers are none, so nothing can be compared with them."""


def search(work: Work, settings: EngineSettings) -> tuple[Plan, Any]:
    """Time the engines, as long as that is a small part of all the work.

    An engine that does not give the loop's numbers in float64 is out, however fast it is. Raises
    ConfigError where ``engine.memory`` has no room for a client.
    """
    trials = begin(work, settings)
    for name in candidates.CANDIDATES:
        trials.consider(name, trials.fastest_chunk)
    trusted = trials.best
    for variant, (_, most) in candidates.VARIANTS.items():
        for base in trials.bases()[:most]:
            trials.consider(f"{base.name} + {variant}", partial(trials.variant, trusted, base))
    best, others = trials.best, trials.others
    others.pop("loop", None)
    return Plan(best.name, best.chunk, trials.loop.seconds / best.seconds, others), best.engine


def begin(work: Work, settings: EngineSettings) -> Trials:
    """With the loop as the best so far. Raises ConfigError, and NotFiniteError."""
    first, most = clients_at_once(work, settings)
    probe = work.first(min(2, most))
    truth = probe.exact().run(Loop())
    if not all(leaf.isfinite().all() for leaf in tree_leaves(truth)):
        raise NotFiniteError
    loop = Found("loop", Loop(), 1, probe.seconds(Loop()))
    return Trials(work, probe, truth, first, most, loop, loop)


def clients_at_once(work: Work, settings: EngineSettings) -> tuple[int, int]:
    """How many to begin with, and at most: all, ``engine.chunk``, or what ``engine.memory`` can hold."""
    one, memory = peak_bytes(lambda: work.first(1).run(Loop())), settings.memory * 2**30
    if one > memory:
        raise ConfigError(
            f"engine.memory must be {one / 2**30:.2g} GiB or more for one client, "
            f"got {settings.memory:g}"
        )
    most = min(int(memory / one), work.clients, settings.chunk or work.clients)
    return max(1, min(most, int(NEAR / one), EngineSettings().most)), most
