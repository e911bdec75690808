"""A device whose software is broken, in the way that FAULT says: FEDMETA_PLUGINS names this module.

It takes the place of MAML in the process of one SuperNode, so that real replies of a real node are bad.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from fedmeta.learners import LEARNERS
from fedmeta.learners.maml import Maml
from fedmeta.objective import Objective
from fedmeta.types import Episode, Params, Update

FAULT, MARK = os.environ.get("FAULT", ""), os.environ.get("MARK", "")
"""What is wrong; and a file to make when a round begins, so that a test can break something in it."""


@dataclass(frozen=True)
class Faulty(Maml):
    @property
    def annealed_until(self) -> float:
        """So that ``update`` is told the progress of every round."""
        return 1.0

    def update(
        self, loss: Objective, params: Params, episodes: Episode, progress: float = 0.0
    ) -> Update:
        update = super().update(loss, params, episodes)
        return update._replace(delta=spoilt(update.delta, progress))


def spoilt(delta: Params, progress: float) -> Params:
    first = next(iter(delta))
    if MARK:
        Path(MARK).write_text(f"{progress:.3f}")
    match FAULT.split():
        case ["raises"]:
            raise OSError("the sensor is unplugged")
        case ["raises", "in", "round", "1"] if progress == 0:
            raise OSError("no camera yet")
        case ["nan"]:
            return {name: value * float("nan") for name, value in delta.items()}
        case ["shape"]:
            return delta | {first: delta[first].flatten()}
        case ["keys"]:
            return {f"my.{name}": value for name, value in delta.items()}
        case ["zero"]:
            return {name: value * 0 for name, value in delta.items()}
        case ["huge"]:
            return {name: value * 1e6 for name, value in delta.items()}
        case ["exits"]:
            os._exit(3)
        case ["slow", seconds]:
            time.sleep(float(seconds))
    return delta


LEARNERS["maml"] = Faulty
