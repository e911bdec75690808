from math import log

import pytest
import torch
from torch import nn

from fedmeta.objective import Objective
from fedmeta.types import Batch


def test_equal_logits_cost_the_log_of_their_number() -> None:
    objective = Objective(nn.Linear(2, 5, bias=False), "cross_entropy")
    batch = Batch(torch.ones(10, 2), torch.arange(5).repeat(2))
    assert float(objective({"weight": torch.zeros(5, 2)}, batch)) == pytest.approx(log(5), rel=1e-6)


def test_accuracy_is_the_share_of_hits() -> None:
    """Logits are the inputs: hits on examples 0 and 1, misses on 2 and 3."""
    objective = Objective(nn.Linear(3, 3, bias=False), "cross_entropy")
    x = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [0, 2, 1]])
    scores = objective.scores({"weight": torch.eye(3)}, Batch(x, torch.tensor([0, 1, 1, 2])))
    assert float(scores["accuracy"]) == 0.5
    # log-sum-exp less the target's logit: (2, 0, 0) hit, hit, miss; (0, 2, 1) short by one
    partition = torch.tensor([2.0, 0, 0]).exp().sum().log()
    second = torch.tensor([0.0, 2, 1]).exp().sum().log() - 1
    assert float(scores["loss"]) == pytest.approx(
        float((2 * (partition - 2) + partition + second) / 4)
    )


def test_regression_has_a_loss_only() -> None:
    """Errors 1 and 3, squared and averaged: 5."""
    objective = Objective(nn.Linear(1, 1, bias=False), "mean_squared_error")
    batch = Batch(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [1.0]]))
    scores = objective.scores({"weight": torch.tensor([[2.0]])}, batch)
    assert {name: float(value) for name, value in scores.items()} == {"loss": 5.0}
