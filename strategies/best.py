"""Which params validation clients liked most."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fedmeta.types import Params


@dataclass(frozen=True)
class Best:
    """The params that validation clients liked most."""

    round: int
    clients: Tensor
    """Who answered, int64 ``[clients]``."""
    scores: Tensor
    """Validation accuracy, or minus the validation loss, after adaptation, float64 ``[clients]``; NaN
    where adaptation diverged."""
    protocol: str
    """How they were scored: scores of another protocol cannot be compared."""
    params: Params

    @property
    def score(self) -> float:
        """Mean over the clients that have one."""
        return float(self.scores.nanmean())

    def beats(self, held: "Best") -> bool:
        """Whether clients like it more than what was held; fewer that diverge are better than any score.

        Only clients that answered both times have a say: one that went away says nothing of the params.
        """
        _, mine, its = np.intersect1d(self.clients, held.clients, return_indices=True)
        if self.protocol != held.protocol or not len(mine):
            return True
        now, before = self.scores[mine], held.scores[its]
        both = ~(now.isnan() | before.isnan())
        return _rank(now, both) > _rank(before, both)


def _rank(scores: Tensor, both: Tensor) -> tuple[int, float]:
    return -int(scores.isnan().sum()), float(scores[both].mean())
