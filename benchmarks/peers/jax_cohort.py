"""JAX: a round compiled over clients by ``vmap`` or ``scan``, or one client compiled and a loop."""

from collections.abc import Callable
from functools import partial, reduce
from math import gcd
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.peers.jax_models import Tree, from_jax, images, loss, to_jax
from benchmarks.peers.serve import Prepared, serve
from benchmarks.work import Job, Work

Outer = Callable[[Tree, Any], Any]


def query_loss(work: Work) -> Outer:
    """A client's query loss after its inner steps."""
    value, head_alone = loss(work), work.learner == "anil"

    def outer(params: Tree, data: Any) -> Any:
        support_x, support_y, query_x, query_y = data
        for _ in range(work.steps):
            moving = {n: w for n, w in params.items() if not head_alone or "head." in n}
            grads = jax.grad(lambda m, all_: value(all_ | m, support_x, support_y))(moving, params)
            if work.learner == "fomaml":
                grads = jax.lax.stop_gradient(grads)
            params = params | {n: w - work.inner_lr * grads[n] for n, w in moving.items()}
        return value(params, query_x, query_y)

    return outer


def displacement(work: Work) -> Outer:
    """Reptile: the params before the steps less those after them."""
    value = loss(work)

    def delta(params: Tree, data: Any) -> Any:
        after = params
        for _ in range(work.steps):
            grads = jax.grad(value)(after, *data)
            after = {n: w - work.inner_lr * grads[n] for n, w in after.items()}
        return {name: w - after[name] for name, w in params.items()}

    return delta


def each_of(work: Work) -> Outer:
    """A client's delta."""
    if work.learner == "reptile":
        return displacement(work)
    gradient: Outer = jax.grad(query_loss(work))
    return gradient


def single(work: Work) -> Outer:
    """The delta of a block of one client."""
    each = each_of(work)
    return lambda params, data: each(params, tuple(part[0] for part in data))


def vmap_of_grad(work: Work) -> Outer:
    """Deltas of all clients beside each other, then their mean."""

    def round(params: Tree, data: Any) -> Any:
        deltas = jax.vmap(each_of(work), (None, 0))(params, data)
        return jax.tree_util.tree_map(lambda delta: delta.mean(axis=0), deltas)

    return round


def grad_of_vmap(work: Work) -> Outer:
    """The gradient of the mean query loss: no client has a gradient of its own."""
    if work.learner == "reptile":
        raise NotImplementedError("Reptile's delta is no gradient of a loss")
    outer = jax.vmap(query_loss(work), (None, 0))
    gradient: Outer = jax.grad(lambda params, data: outer(params, data).mean())
    return gradient


def scan(work: Work) -> Outer:
    """One client after the other, compiled, into one sum."""
    each = each_of(work)

    def round(params: Tree, data: Any) -> Any:
        def add(total: Tree, own: Any) -> tuple[Tree, None]:
            return jax.tree_util.tree_map(jnp.add, total, each(params, own)), None

        zero = jax.tree_util.tree_map(jnp.zeros_like, params)
        total, _ = jax.lax.scan(add, zero, data)
        return jax.tree_util.tree_map(lambda values: values / len(data[0]), total)

    return round


def prepare(job: Job, how: Callable[[Work], Outer], most: int | None = None) -> Prepared:
    """Compiled at the first call; in equal blocks of at most so many clients."""
    work, params = job.work, to_jax(job.params)
    parts = [job.support_x, job.support_y, job.query_x, job.query_y]
    if work.learner == "reptile":
        parts = list(job.every_example())
    data = [jnp.asarray(images(p, work) if i % 2 == 0 else p) for i, p in enumerate(parts)]
    size = gcd(work.clients, most) if most else work.clients
    blocks = [tuple(p[i : i + size] for p in data) for i in range(0, work.clients, size)]
    compiled = jax.jit(how(work))
    add = jax.jit(lambda a, b: jax.tree_util.tree_map(jnp.add, a, b))

    def run() -> Any:
        total = reduce(add, (compiled(params, block) for block in blocks))
        return jax.block_until_ready({n: delta / len(blocks) for n, delta in total.items()})

    return Prepared(run, from_jax)


def vectorised(job: Job, how: Callable[[Work], Outer]) -> Prepared:
    """All clients at once; of a Conv-4 four, whose activations take gigabytes."""
    return prepare(job, how, 4 if job.work.convolutional else None)


if __name__ == "__main__":
    ways = {
        "vmap": partial(vectorised, how=vmap_of_grad),
        "gradvmap": partial(vectorised, how=grad_of_vmap),
        "scan": partial(prepare, how=scan),
        "loop": partial(prepare, how=single, most=1),
    }
    serve(ways, ["jax", "jaxlib"])
