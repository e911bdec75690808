"""The models of the work in plain JAX, with weights laid out as XLA likes them on a CPU."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.work import Arrays, Work

Tree = dict[str, Any]
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def to_jax(params: Arrays) -> Tree:
    """Linear weights ``[in, out]``, convolutions ``[height, width, in, out]``."""
    axes = {2: (1, 0), 4: (2, 3, 1, 0)}
    return {n: jnp.asarray(w.transpose(axes.get(w.ndim, range(w.ndim)))) for n, w in params.items()}


def from_jax(params: Tree) -> Arrays:
    """Back as torch has them."""
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}
    arrays = {name: np.asarray(w) for name, w in params.items()}
    return {n: w.transpose(axes.get(w.ndim, tuple(range(w.ndim)))) for n, w in arrays.items()}


def images(x: Any, work: Work) -> Any:
    """Inputs ``[..., rows, height, width, channels]`` for a convolutional net, else as they are."""
    return np.moveaxis(x, -3, -1) if work.convolutional else x


def predict(work: Work) -> Callable[[Tree, Any], Any]:
    """From params and inputs to outputs."""
    return _conv4(work.model == "pooled") if work.convolutional else _mlp(len(work.hidden))


def loss(work: Work) -> Callable[[Tree, Any, Any], Any]:
    """Mean squared error, or cross entropy."""
    model = predict(work)

    def squared(params: Tree, x: Any, y: Any) -> Any:
        return ((model(params, x) - y) ** 2).mean()

    def entropy(params: Tree, x: Any, y: Any) -> Any:
        logs = jax.nn.log_softmax(model(params, x))
        return -jnp.take_along_axis(logs, y[:, None], axis=1).mean()

    return squared if work.model == "sines" else entropy


def _mlp(layers: int) -> Callable[[Tree, Any], Any]:
    def model(params: Tree, x: Any) -> Any:
        x = x.reshape(len(x), -1)
        for i in range(layers):
            x = jax.nn.relu(x @ params[f"linear{i}.weight"] + params[f"linear{i}.bias"])
        return x @ params["head.weight"] + params["head.bias"]

    return model


def _conv4(pooled: bool) -> Callable[[Tree, Any], Any]:
    stride = (1, 1) if pooled else (2, 2)

    def model(params: Tree, x: Any) -> Any:
        for i in range(4):
            weight, block = params[f"block{i}.conv.weight"], f"block{i}."
            x = lax.conv_general_dilated(
                x, weight, stride, [(1, 1), (1, 1)], dimension_numbers=_LAYOUT
            )
            x = _norm(x + params[block + "conv.bias"], params, block + "norm.")
            x = jax.nn.relu(_pool(x) if pooled else x)
        flat = x.reshape(len(x), -1) if pooled else x.mean(axis=(1, 2))  # a pooled map is 1x1
        return flat @ params["head.weight"] + params["head.bias"]

    return model


def _norm(x: Any, params: Tree, name: str) -> Any:
    """Batch norm with the statistics of the batch."""
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    scale = params[name + "weight"] * lax.rsqrt(variance + 1e-5)
    return (x - mean) * scale + params[name + "bias"]


def _pool(x: Any) -> Any:
    """2x2 max pooling. A maximum over a reshape takes less time, but this net then fails the check."""
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
