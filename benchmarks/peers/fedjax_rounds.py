"""FedJAX: its own federated averaging, whose local steps and server rate 1 are Reptile's."""

from typing import Any

import fedjax
import jax
from fedjax.algorithms import fed_avg

from benchmarks.peers.jax_models import from_jax, images, loss, to_jax
from benchmarks.peers.serve import Prepared, serve
from benchmarks.work import Job


def federated_averaging(job: Job) -> Prepared:
    """A round of ``fedjax.algorithms.fed_avg`` over all clients, steps on all rows at once."""
    work, value, params = job.work, loss(job.work), to_jax(job.params)
    if work.learner != "reptile":
        raise NotImplementedError("FedJAX has no meta-learning")
    gradient = jax.grad(lambda params, batch: value(params, batch["x"], batch["y"]))
    algorithm: Any = fed_avg.federated_averaging(
        lambda params, batch, rng: gradient(params, batch),
        fedjax.optimizers.sgd(learning_rate=work.inner_lr),
        fedjax.optimizers.sgd(learning_rate=1.0),
        fedjax.ShuffleRepeatBatchHParams(
            batch_size=work.support + work.query, num_epochs=work.steps, seed=0
        ),
    )
    state, clients = algorithm.init(params), _clients(job)

    def run() -> Any:
        after, _ = algorithm.apply(state, clients)
        return jax.block_until_ready(after.params)

    def update(after: Any) -> Any:
        return from_jax({name: w - after[name] for name, w in params.items()})

    return Prepared(run, update)


def _clients(job: Job) -> list[Any]:
    """Ids, data sets and keys."""
    keys = jax.random.split(jax.random.PRNGKey(0), job.work.clients)
    x, y = job.every_example()
    sets = [
        fedjax.ClientDataset({"x": images(own_x, job.work), "y": own_y})
        for own_x, own_y in zip(x, y, strict=True)
    ]
    return [
        (str(i).encode(), own, key) for i, (own, key) in enumerate(zip(sets, keys, strict=True))
    ]


if __name__ == "__main__":
    serve({"rounds": federated_averaging}, ["fedjax", "jax"])
