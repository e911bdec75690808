"""Weighting: the number that a client's delta is averaged with.

A weighting names a column of the replies, so that a node can already weigh its clients' sum.
"""

WEIGHTINGS: dict[str, str] = {
    "examples": "examples",  # shard sizes, n_i of McMahan et al. 2017
    "uniform": "one",
}
