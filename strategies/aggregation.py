"""Aggregation: many deltas become one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedmeta.cohort import Replies, column
from fedmeta.params import weighted_sum
from fedmeta.types import Params


def weighted_mean(replies: Sequence[Replies], weight: str) -> Params:
    """``sum_c weight_c delta_c / sum_c weight_c`` over stacked and summed replies alike.

    Stacked replies are put in client order first: which node a client sat on leaves no trace.
    """
    total = torch.cat([column(reply, weight) for reply in replies]).sum()
    sums = [reply.deltas for reply in replies if reply.summed]
    each = [reply for reply in replies if not reply.summed]
    if each:
        sums.append(_ordered_sum(each, weight))
    return {
        name: (torch.stack([part[name] for part in sums]).sum(dim=0) / total).to(
            sums[0][name].dtype
        )
        for name in sums[0]
    }


def _ordered_sum(replies: Sequence[Replies], weight: str) -> Params:
    clients = torch.tensor([client for reply in replies for client in reply.clients])
    order = clients.argsort()
    weights: Tensor = torch.cat([column(reply, weight) for reply in replies])[order]
    names = replies[0].deltas
    stack = {name: torch.cat([reply.deltas[name] for reply in replies])[order] for name in names}
    return weighted_sum(stack, weights)
