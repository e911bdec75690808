"""What a researcher writes in torch: one client after the other, plainly or with TorchOpt."""

from collections.abc import Callable
from typing import Any

import torch
import torchopt
from torch import Tensor
from torch.func import functional_call

from benchmarks.ours import mean, objective, tensors
from benchmarks.peers.serve import Prepared, serve
from benchmarks.work import Job, Work
from fedmeta.types import Params

Client = Callable[[Params, "Data"], Params]
"""From params and one client's data to its delta."""
Data = tuple[Tensor, Tensor, Tensor, Tensor]
"""Support x and y, query x and y."""
Step = Callable[[Params, Params], Params]
"""From params and gradients to the params after a step."""


def client(work: Work, step: Step) -> Client:
    """The learner of the work with a rule for inner steps."""
    loss, second = objective(work), work.learner in ("maml", "anil")

    def adapt(params: Params, x: Tensor, y: Tensor) -> Params:
        for _ in range(work.steps):
            moving = {n: w for n, w in params.items() if work.learner != "anil" or "head." in n}
            value = _loss(loss, params, x, y)
            grads = torch.autograd.grad(value, list(moving.values()), create_graph=second)
            params = params | step(moving, dict(zip(moving, grads, strict=True)))
        return params

    def meta_gradient(params: Params, data: Data) -> Params:
        value = _loss(loss, adapt(params, *data[:2]), *data[2:])
        return dict(zip(params, torch.autograd.grad(value, list(params.values())), strict=True))

    def displacement(params: Params, data: Data) -> Params:
        x, y = torch.cat([data[0], data[2]]), torch.cat([data[1], data[3]])
        after = adapt(params, x, y)
        return {name: (w - after[name]).detach() for name, w in params.items()}

    return displacement if work.learner == "reptile" else meta_gradient


def _loss(loss: Any, params: Params, x: Tensor, y: Tensor) -> Tensor:
    value: Tensor = loss._loss(functional_call(loss.module, params, (x,)), y)
    return value


def gradient_steps(lr: float, reptile: bool) -> Step:
    """``w - lr g``; Reptile needs no graph through its steps."""

    def step(params: Params, grads: Params) -> Params:
        stepped = {name: w - lr * grads[name] for name, w in params.items()}
        return _leaves(stepped) if reptile else stepped

    return step


def torchopt_steps(lr: float, reptile: bool) -> Step:
    """The same by TorchOpt's functional SGD."""
    optimizer: Any = torchopt.sgd(lr)

    def step(params: Params, grads: Params) -> Params:
        updates, _ = optimizer.update(grads, optimizer.init(params), inplace=False)
        stepped: Params = torchopt.apply_updates(params, updates, inplace=False)
        return _leaves(stepped) if reptile else stepped

    return step


def _leaves(params: Params) -> Params:
    return {name: w.detach().requires_grad_() for name, w in params.items()}


def looped(job: Job, steps: Callable[[float, bool], Step]) -> Prepared:
    """A round in which the clients' deltas are added up."""
    params, clients = _leaves(tensors(job.params)), data(job)
    one = client(job.work, steps(job.work.inner_lr, job.work.learner == "reptile"))

    def run() -> Params:
        total = {name: torch.zeros_like(w) for name, w in params.items()}
        for own in clients:
            for name, delta in one(params, own).items():
                total[name] += delta
        return total

    return Prepared(run, lambda total: mean(total, job.work.clients))


def meta_sgd(job: Job) -> Prepared:
    """TorchOpt's differentiable optimiser on a module, as its MAML examples have it."""
    work, loss, clients = job.work, objective(job.work), data(job)
    if work.learner not in ("maml", "anil"):
        raise NotImplementedError("torchopt.MetaSGD always differentiates through its steps")
    module: Any = loss.module
    module.load_state_dict(tensors(job.params))
    inner = torchopt.MetaSGD(module.head if work.learner == "anil" else module, lr=work.inner_lr)
    begin, fresh = (torchopt.extract_state_dict(of, by="reference") for of in (module, inner))
    meta = dict(module.named_parameters())

    def run() -> Params:
        module.zero_grad()
        for support_x, support_y, query_x, query_y in clients:
            for _ in range(work.steps):
                inner.step(loss._loss(module(support_x), support_y))
            torch.autograd.backward(loss._loss(module(query_x), query_y))
            torchopt.recover_state_dict(module, begin)
            torchopt.recover_state_dict(inner, fresh)
        return {name: weight.grad for name, weight in meta.items() if weight.grad is not None}

    return Prepared(run, lambda total: mean(total, work.clients))


def data(job: Job) -> list[Data]:
    """Of every client."""
    parts = (job.support_x, job.support_y, job.query_x, job.query_y)
    return list(zip(*(torch.from_numpy(part) for part in parts), strict=True))


if __name__ == "__main__":
    serve(
        {
            "plain": lambda job: looped(job, gradient_steps),
            "torchopt": lambda job: looped(job, torchopt_steps),
            "metasgd": meta_sgd,
        },
        ["torch", "torchopt"],
    )
