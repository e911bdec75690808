"""pfl-research: its own federated averaging, whose local steps and server rate 1 are Reptile's."""

import asyncio
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peers.serve import Prepared, serve
from benchmarks.work import Arrays, Job, Work
from fedmeta.models.mlp import Mlp


class Trained(nn.Module):
    """A model as pfl wants it: with its loss."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.model = Mlp(list(work.hidden)).build(work.input_shape, work.outputs)
        self._loss = F.mse_loss if work.model == "sines" else F.cross_entropy

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Of a batch."""
        return self._loss(self.model(x), y)

    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        """Nothing is evaluated."""
        return {}


def federated_averaging(job: Job) -> Prepared:
    """One round of ``FederatedAveraging.run`` with a simulated backend in this process."""
    if job.work.learner != "reptile":
        raise NotImplementedError("pfl has no MAML; its Reptile is federated averaging")
    module, backend = Trained(job.work), _backend(job)
    model = PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0))
    start = {f"model.{name}": torch.from_numpy(value) for name, value in job.params.items()}
    steps = NNTrainHyperParams(
        local_batch_size=job.work.support + job.work.query,
        local_num_epochs=job.work.steps,
        local_learning_rate=job.work.inner_lr,
    )

    def run() -> nn.Module:
        module.load_state_dict(start)
        algorithm = FederatedAveraging()
        algorithm._current_central_iteration = 1  # round 0 evaluates every client, twice
        rounds = NNAlgorithmParams(2, 10**9, job.work.clients, None)
        algorithm.run(rounds, backend, model, steps, send_metrics_to_platform=False)
        return module

    def update(module: nn.Module) -> Arrays:
        after = {n.removeprefix("model."): w.detach() for n, w in module.named_parameters()}
        return {name: w - after[name].numpy() for name, w in job.params.items()}

    return Prepared(run, update)


def _backend(job: Job) -> SimulatedBackend:
    """All clients in this process, each once in a round."""
    x, y = (torch.from_numpy(part) for part in job.every_example())
    data = [Dataset((own_x, own_y)) for own_x, own_y in zip(x, y, strict=True)]
    users = get_user_sampler("minimize_reuse", list(range(job.work.clients)))
    federated = FederatedDataset(data.__getitem__, users)
    return SimulatedBackend(federated, federated)


if __name__ == "__main__":
    asyncio.set_event_loop(asyncio.new_event_loop())  # pfl asks for the current one
    serve({"rounds": federated_averaging}, ["pfl", "torch"])
