"""Which clients take part in a round."""

import numpy as np

from fedmeta.data.federation import Clients
from fedmeta.seeding import choose


def sample(clients: Clients, count: int, seed: int, round: int) -> Clients:
    """``count`` clients without replacement in ascending order, a pure function of (seed, round)."""
    chosen: Clients = np.sort(clients[choose(len(clients), count, seed, "cohort", round)])
    return chosen
