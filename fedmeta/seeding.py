"""Every random draw has an address, and is a pure function of it.

An address is a row of integers, names and integer arrays, for example
``(seed, "cohort", round)`` or ``(seed, "episode", round, clients[:, None], slot)``. Arrays broadcast
against each other, so the draws of a thousand clients are one call, and equal the draws that each of
them would make alone: neither the engine nor the number of workers can change which data is drawn.

The generator is counter based: the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast
splittable pseudorandom number generators", variant 13 of Stafford's mixers) is chained over the
address.
"""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Part = int | str | NDArray[np.integer]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


def _word(part: Part) -> NDArray[np.uint64]:
    if isinstance(part, str):
        part = int.from_bytes(blake2b(part.encode(), digest_size=8).digest(), "little")
    if isinstance(part, int):
        part = np.array(part % 2**64, dtype=np.uint64)
    return np.asarray(part).astype(np.uint64)


def bits(*address: Part) -> NDArray[np.uint64]:
    """64 random bits per element of the broadcast address."""
    state = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in address:
            state = _mix((state ^ _mix(_word(part) + _GOLDEN)) + _GOLDEN)
    return state


def uniform(*address: Part) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), one per element of the broadcast address."""
    return (bits(*address) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def choose(n: int, k: int, *address: Part) -> NDArray[np.int64]:
    """``k`` of ``range(n)`` without replacement in random order, ``[..., k]`` for an address ``[...]``."""
    address = tuple(part[..., None] if isinstance(part, np.ndarray) else part for part in address)
    keys = bits(*address, np.arange(n))
    if 8 * k >= n:
        return np.argsort(keys, axis=-1)[..., :k]
    chosen = np.argpartition(keys, k, axis=-1)[..., :k]  # a cohort out of very many clients
    order = np.argsort(np.take_along_axis(keys, chosen, axis=-1), axis=-1)
    return np.take_along_axis(chosen, order, axis=-1)


def choose_each(sizes: NDArray[np.int64], count: int, *address: Part) -> NDArray[np.int64]:
    """``choose`` out of ``sizes`` each, ``[..., count]``; sizes and address broadcast alike."""
    if (sizes == (size := int(sizes.flat[0]))).all():
        return choose(size, count, *address)
    shape = np.broadcast_shapes(
        sizes.shape, *(part.shape for part in address if isinstance(part, np.ndarray))
    )
    sizes, chosen = np.broadcast_to(sizes, shape), np.empty((*shape, count), dtype=np.int64)
    for size in np.unique(sizes):
        these = sizes == size
        chosen[these] = choose(
            int(size),
            count,
            *(
                np.broadcast_to(part, shape)[these] if isinstance(part, np.ndarray) else part
                for part in address
            ),
        )
    return chosen
