"""What attackers send in place of their deltas.

A delta is server minus client, a pseudo-gradient: the server steps along its negative, so these are the
formulas of the papers for gradients. Stacks are ``[clients, ...]``: ``own`` are the deltas ``d_i`` that
the attackers would send if they were honest, ``honest`` those of all others of the round, which
colluders see.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from fedmeta.data.federation import Clients
from fedmeta.seeding import Part, uniform
from fedmeta.types import Params


def sign_flip(own: Params, scale: float) -> Params:
    """``-scale * d_i``: every attacker alone, against where its own data leads.

    The sign flipping of Li et al., "RSA" (AAAI 2019), with sigma = -scale, there -4; with scale 1 the
    bit flipping of Karimireddy, He and Jaggi (ICLR 2022).
    """
    return {name: -scale * value for name, value in own.items()}


def noise(own: Params, scale: float, clients: Clients, seed: int, round: int) -> Params:
    """A Gaussian vector in place of ``d_i``, of root mean square length ``scale * |d_i|``.

    The Gaussian attack of Blanchard et al., "Machine Learning with Adversaries" (NeurIPS 2017):
    N(0, sigma^2 I), there with sigma = 200. Here sigma = scale |d_i| / sqrt(numbers), so that the
    same setting means the same at any size of model and at any time of training.
    """
    flat = {name: own[name].double().reshape(len(clients), -1) for name in sorted(own)}
    squares = torch.stack([value.square().sum(dim=1) for value in flat.values()])
    numbers = sum(value.shape[1] for value in flat.values())
    sigma = (scale * (squares.sum(dim=0) / numbers).sqrt()).numpy()[:, None]
    forged = {}
    for name, value in own.items():  # by name, for a resumed server has another order of them
        drawn = sigma * normal(flat[name].shape[1], clients, seed, name, round)
        forged[name] = torch.from_numpy(drawn).reshape(value.shape).to(value.dtype)
    return forged


def normal(size: int, clients: Clients, *address: Part) -> NDArray[np.float64]:
    """Standard normal numbers ``[clients, size]`` (Box and Muller 1958)."""
    address = (*address, "attack noise", clients[:, None], np.arange(size))
    radius = np.sqrt(-2 * np.log1p(-uniform(*address, "radius")))
    drawn: NDArray[np.float64] = radius * np.cos(2 * np.pi * uniform(*address, "angle"))
    return drawn


def inner_product(honest: Params, scale: float) -> Params:
    """``-scale * mean(honest)``, the same from all: the mean of all deltas shrinks, or turns round.

    Xie, Koyejo and Gupta, "Fall of Empires" (UAI 2019), with epsilon = scale. With f of n
    clients attacking, the mean of all is ``(n - f - f scale) / n`` times that of the honest: it points
    the wrong way for a scale above (n - f) / f. A small scale stays near the honest and is meant for
    rules that choose deltas by their distances.
    """
    return {
        name: (-scale * value.double().mean(dim=0)).to(value.dtype)
        for name, value in honest.items()
    }


def little_is_enough(honest: Params, scale: float) -> Params:
    """``mean(honest) - scale * std(honest)`` of every number, the same from all: it hides in the spread.

    Baruch, Baruch and Goldberg, "A Little Is Enough" (NeurIPS 2019), Algorithm 3, with z = scale. The
    paper's attackers estimate mean and deviation from what they would send themselves; knowing those of
    the honest, as with Karimireddy, He and Jaggi (ICLR 2022), one attacker in a round can do it. The
    deviation is that of the population: 0 for one honest client.
    """
    wide = {name: value.double() for name, value in honest.items()}
    return {
        name: (value.mean(dim=0) - scale * value.std(dim=0, correction=0)).to(honest[name].dtype)
        for name, value in wide.items()
    }
