"""Aggregation: many deltas become one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedmeta.params import concatenate, select, weighted_sum
from fedmeta.replies import Replies, column
from fedmeta.types import Params


def weighted_mean(replies: Sequence[Replies], weight_column: str) -> Params:
    """``sum_c weight_c delta_c / sum_c weight_c`` over stacked and summed replies alike.

    Stacked replies are put in client order first: which node a client sat on leaves no trace.
    """
    total = torch.cat([column(reply, weight_column) for reply in replies]).sum()
    parts = [
        {name: value / total.to(value.dtype) for name, value in reply.deltas.items()}
        for reply in replies
        if reply.summed
    ]
    if each := [reply for reply in replies if not reply.summed]:
        parts.append(_ordered_sum(each, weight_column, total))
    return {name: torch.stack([part[name] for part in parts]).sum(dim=0) for name in parts[0]}


def _ordered_sum(replies: Sequence[Replies], weight_column: str, total: Tensor) -> Params:
    clients = torch.tensor([client for reply in replies for client in reply.clients])
    order = clients.argsort()
    weights = torch.cat([column(reply, weight_column) for reply in replies])[order]
    stack = concatenate([reply.deltas for reply in replies])
    return weighted_sum(select(stack, order), weights / total)
