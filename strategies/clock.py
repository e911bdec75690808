"""Simulated time: how long devices would have taken, so that curves can be drawn against seconds.

A device needs ``overhead + slowness * steps * seconds_per_step`` to compute and its bandwidth to
receive and send (Wang et al. 2021, "A Field Guide to Federated Optimization", section 4.2, with their
constants). Its slowness is half normal over devices, which is what training times in production look
like (Nguyen et al., AISTATS 2022, "Federated Learning with Buffered Asynchronous Aggregation").
"""

from dataclasses import dataclass, replace
from math import inf, pi, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import halfnorm
from torch import Tensor

from fedmeta.compression import traffic
from fedmeta.config import Experiment
from fedmeta.data.federation import Clients
from fedmeta.replies import Replies
from fedmeta.seeding import uniform
from fedmeta.settings import DeviceSettings
from fedmeta.types import Params
from strategies.gathered import Gathered
from strategies.validation import Checked, some

MEAN = sqrt(2 / pi)
"""Of a half normal number of scale 1: slowness is 1 on average."""
TOOK = "device_seconds"
"""The column of how long a simulated device took."""
Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Clock:
    """A pure function of the seed: a client is as slow in every round."""

    settings: DeviceSettings
    seed: int
    down: float
    """Bytes of the numbers that a client receives in a round, whatever a message has besides."""
    up: float
    """The same of what it sends."""

    @classmethod
    def of(cls, experiment: Experiment, params: Params) -> "Clock | None":
        """The clock of an experiment whose devices are simulated."""
        if experiment.devices.slowness == "none":
            return None
        down = traffic(params, experiment.wire, deltas=0)
        up = traffic(params, experiment.wire) - down
        return cls(experiment.devices, experiment.seed, down, up)

    def slowness(self, clients: Clients) -> Seconds:
        """How many times longer than an average device each takes, ``[clients]``."""
        if self.settings.slowness == "equal":
            return np.ones(len(clients))
        drawn: Seconds = halfnorm.ppf(uniform(self.seed, "slowness", clients)) / MEAN
        return drawn

    def seconds(self, clients: Clients, steps: Seconds) -> Seconds:
        """From being asked to the reply, given gradient steps ``[clients]``."""
        s = self.settings
        travel = self.down / (1e6 * s.download) + self.up / (1e6 * s.upload)
        return s.overhead + self.slowness(clients) * steps * s.seconds_per_step + travel

    def reachable(self, clients: Clients, round: int) -> NDArray[np.bool_]:
        """Who does not drop out of a round."""
        return uniform(self.seed, "dropout", round, clients) >= self.settings.dropout


@dataclass(frozen=True)
class Timed:
    """The replies that came in before the deadline."""

    checked: Checked
    began: float
    now: float
    """Simulated seconds when the round is over: when the last came in, or at the deadline if one did
    not."""

    def arrives(self, begun: Gathered | None) -> Tensor:
        """When each reply comes in, in simulated seconds ``[clients]``."""
        if begun is None:
            return torch.empty(0, dtype=torch.float64)
        return self.began + begun.columns[TOOK]


def on_time(checked: Checked, clock: Clock | None, began: float, absent: bool = False) -> Timed:
    """Let simulated devices take their time: each reply's columns say how many seconds it took.

    Where a device that was asked is ``absent``, a server that has a deadline waits for it until then.
    """
    if clock is None:
        return Timed(checked, began, began)
    deadline = clock.settings.deadline or inf
    kept, late = list[Replies](), dict[int, str]()
    last = inf if absent and clock.settings.deadline else 0.0
    for reply in (_taking(reply, clock) for reply in checked.replies):
        took = reply.columns[TOOK]
        last, slow = max(last, float(took.max())), took > deadline
        pairs = zip(reply.clients, took.tolist(), slow.tolist(), strict=True)
        late |= {c: f"{t:.0f} s (simulated), past the deadline" for c, t, over in pairs if over}
        if not slow.all():
            kept.append(some(reply, ~slow) if slow.any() else reply)
    dropped = checked.dropped | late
    return Timed(
        replace(checked, replies=kept, dropped=dropped), began, began + min(last, deadline)
    )


def _taking(reply: Replies, clock: Clock) -> Replies:
    steps = reply.columns["steps"].double().numpy()
    took = torch.as_tensor(clock.seconds(np.array(reply.clients), steps))
    return replace(reply, columns=reply.columns | {TOOK: took})
