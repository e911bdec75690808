"""What a model is judged by: its loss, and its scores on a query set."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fedmeta.adapters import merged
from fedmeta.types import Batch, Metrics, Params

Kind = Literal["cross_entropy", "mean_squared_error"]


def score_names(kind: Kind) -> set[str]:
    """What ``Objective.scores`` gives."""
    return {"loss", "accuracy"} if kind == "cross_entropy" else {"loss"}


@dataclass(frozen=True)
class Objective:
    """A stateless module with its loss: calling it gives the mean loss, as learners want it."""

    module: nn.Module
    kind: Kind

    def predict(self, params: Params, x: Tensor) -> Tensor:
        """Logits ``[examples, classes]`` or values ``[examples, outputs]``."""
        output: Tensor = functional_call(self.module, merged(params), (x,))
        return output

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        """Mean loss over the batch, a scalar."""
        return self._loss(self.predict(params, batch.x), batch.y)

    def scores(self, params: Params, batch: Batch, beside: Tensor | None = None) -> Metrics:
        """Mean loss and, for classification, accuracy in [0, 1].

        With ``beside``, inputs ``[examples, ...]``, each example is predicted in a batch of these and
        itself.
        """
        if beside is None:
            output = self.predict(params, batch.x)
        else:
            output = torch.vmap(lambda x: self.predict(params, torch.cat([beside, x[None]]))[-1])(
                batch.x
            )
        return self.judge(output, batch.y)

    def judge(self, output: Tensor, target: Tensor) -> Metrics:
        """The scores of a batch's output."""
        scores = {"loss": self._loss(output, target)}
        if self.kind == "cross_entropy":
            scores["accuracy"] = self._accuracy(output, target)
        return scores

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of every example ``[examples]``; their mean is the loss of the batch."""
        if self.kind == "cross_entropy":
            return F.cross_entropy(output, target, reduction="none")
        return (output - target).square().flatten(1).mean(dim=1)

    def counts(self, target: Tensor) -> Tensor:
        """What every example counts ``[examples]``: 1."""
        return torch.ones(len(target), device=target.device)

    def _loss(self, output: Tensor, target: Tensor) -> Tensor:
        if self.kind == "cross_entropy":
            return F.cross_entropy(output, target)
        return F.mse_loss(output, target)

    def _accuracy(self, output: Tensor, target: Tensor) -> Tensor:
        hits = output.argmax(dim=-1) == target
        return hits.to(output.dtype).mean()


def initial_params(module: nn.Module, seed: int, dtype: torch.dtype) -> Params:
    """The module's own initialisation, drawn anew from ``seed``; every server and resume agrees on it.

    A part that has ``reset_parameters`` draws all that is in it; what no such part holds is as it was
    when the module was built.
    """
    with torch.random.fork_rng(devices=[]):  # reset_parameters knows the global generator only
        torch.manual_seed(seed)
        _reset(module)
    return {name: param.detach().clone().to(dtype) for name, param in module.named_parameters()}


def _reset(part: nn.Module) -> None:
    if callable(reset := getattr(part, "reset_parameters", None)):
        reset()
        return
    for inner in part.children():
        _reset(inner)
