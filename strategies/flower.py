"""Flower's stock strategies as a pure function: the strategy's own code, given messages made of deltas.

Flower's objects live as long as a run and remember things. Here an object lives for one step, and what
it remembers goes into tensors, which checkpoints keep.
"""

import gc
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import Any, cast

import numpy as np
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
)
from numpy.typing import NDArray
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.types import Metrics, Params
from strategies.robust import Needs

STOCK: dict[str, type[FedAvg]] = {
    kind.__name__: kind
    for kind in (
        Bulyan, FedAdagrad, FedAdam, FedAvg, FedAvgM, FedMedian, FedTrimmedAvg, FedYogi, Krum, MultiKrum,
        QFedAvg,
    )
}  # fmt: skip
"""Those that aggregate arrays. FedProx is FedAvg on the server, its term is the learner ``fedprox``."""

ARRAYS_BY_NAME, ARRAYS_IN_ORDER = ("m_t", "v_t"), "momentum_vector"
"""What Flower's objects remember; their copies of the current params are made anew in each step."""
ROUND = "round"
POSITIVE = ("num_nodes_to_select", "client_learning_rate")
_NOBODY = cast(Grid, None)


def flower_step(
    kind: str,
    options: Mapping[str, Any],
    params: Params,
    deltas: Params,
    columns: Metrics,
    memory: dict[str, Tensor],
) -> tuple[Params, dict[str, Tensor]]:
    """The delta that leads to Flower's new params, and what to remember; ``memory`` is empty at first.

    Flower sees clients' params, ``params - delta``, with ``columns["examples"]`` as its weights, and
    ``columns["loss"]``, for q-FedAvg the loss at the params received. Its round is the number of steps
    so far plus 1. Needs a Flower process. Raises ConfigError as ``flower_strategy``, and where clients
    are too few.
    """
    strategy, clients = flower_strategy(kind, options), len(next(iter(deltas.values())))
    flower_needs(kind, options).check(clients)
    round = int(memory.get(ROUND, torch.tensor(0))) + 1
    strategy.fraction_train = 0.0  # nobody is sampled; it only takes note of the current params
    strategy.configure_train(round, _record(params), ConfigRecord(), _NOBODY)
    _recall(strategy, memory, params)
    replies = messages(params, deltas, columns, clients)
    with _older_objects_left_alone():
        arrays, _ = strategy.aggregate_train(round, replies)
    assert arrays is not None, f"Flower's {kind} has not aggregated {clients} replies"
    delta = {
        name: (old.double() - torch.from_numpy(arrays[name].numpy()).double()).to(old.dtype)
        for name, old in params.items()
    }
    return delta, _remembered(strategy, params) | {ROUND: torch.tensor(round)}


def flower_strategy(kind: str, options: Mapping[str, Any]) -> FedAvg:
    """The strategy. Raises ConfigError for an unknown kind and for options that it does not take."""
    if kind not in STOCK:
        raise ConfigError(f"strategy.kind must be one of {', '.join(STOCK)}, got {kind!r}")
    allowed = flower_options(kind)
    for name, value in options.items():
        if name not in allowed:
            raise ConfigError(
                f"strategy.options.{name} is no option of {kind}, which takes: "
                f"{', '.join(allowed) or 'none'}"
            )
        _check_number(name, value, allowed[name].annotation)
    for name, parameter in allowed.items():
        if parameter.default is inspect.Parameter.empty and name not in options:
            raise ConfigError(f"strategy.options.{name} is missing, {kind} needs it")
    try:
        return STOCK[kind](**options)
    except ValueError as e:
        raise ConfigError(f"strategy.options of {kind}: {e}") from e


def flower_options(kind: str) -> dict[str, inspect.Parameter]:
    """The numbers that a kind takes: clients are sampled and replies are named elsewhere."""
    common = inspect.signature(FedAvg).parameters
    return {
        name: parameter
        for name, parameter in inspect.signature(STOCK[kind]).parameters.items()
        if name not in common and parameter.annotation in (int, float)
    }


def flower_needs(kind: str, options: Mapping[str, Any]) -> Needs:
    """How many clients a kind needs: only Bulyan refuses, and skips the round."""
    attackers = int(options.get("num_malicious_nodes", 0))
    if kind == "Bulyan":
        return Needs(4 * attackers + 3, f"strategy.options.num_malicious_nodes {attackers}")
    return Needs(1, "a step")


def messages(params: Params, deltas: Params, columns: Metrics, clients: int) -> list[Message]:
    """What clients would reply to Flower, one after the other."""
    metrics = {"num-examples": columns["examples"]}
    if "loss" in columns:
        metrics["train_loss"] = columns["loss"]
    replies = []
    for client in range(clients):
        own = {name: value - deltas[name][client] for name, value in params.items()}
        said = MetricRecord()
        for name, values in metrics.items():
            said[name] = float(values[client])
        content = RecordDict({"arrays": _record(own), "metrics": said})
        asked = Message(RecordDict(), client + 1, MessageType.TRAIN)
        replies.append(Message(content, reply_to=asked))
    return replies


def _check_number(name: str, value: Any, kind: type) -> None:
    number = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    if not number or not isfinite(value) or value < 0 or (name in POSITIVE and value == 0):
        what = "a whole number" if kind is int else "a number"
        least = "above 0" if name in POSITIVE else "of 0 or more"
        raise ConfigError(f"strategy.options.{name} must be {what} {least}, got {value!r}")


@contextmanager
def _older_objects_left_alone() -> Iterator[None]:
    """Bulyan and q-FedAvg collect garbage once for each client, some 0.1 s where torch is loaded."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _record(params: Params) -> ArrayRecord:
    return ArrayRecord({name: Array(value.numpy(force=True)) for name, value in params.items()})


def _recall(strategy: FedAvg, memory: Mapping[str, Tensor], params: Params) -> None:
    arrays = {name: value.numpy(force=True) for name, value in memory.items()}
    for kept in ARRAYS_BY_NAME:
        if f"{kept}/{next(iter(params))}" in arrays:
            setattr(strategy, kept, {name: arrays[f"{kept}/{name}"] for name in params})
    if f"{ARRAYS_IN_ORDER}/{next(iter(params))}" in arrays:
        in_order = [arrays[f"{ARRAYS_IN_ORDER}/{name}"] for name in params]
        setattr(strategy, ARRAYS_IN_ORDER, in_order)


def _remembered(strategy: FedAvg, params: Params) -> dict[str, Tensor]:
    kept: dict[str, Mapping[str, NDArray[Any]]] = {
        name: found for name in ARRAYS_BY_NAME if (found := getattr(strategy, name, None))
    }
    if found := getattr(strategy, ARRAYS_IN_ORDER, None):
        kept[ARRAYS_IN_ORDER] = dict(zip(params, found, strict=True))
    return {
        f"{attribute}/{name}": torch.from_numpy(np.array(value))
        for attribute, arrays in kept.items()
        for name, value in arrays.items()
    }
