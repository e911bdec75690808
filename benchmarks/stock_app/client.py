"""A client with a small numpy model; its node config says what is wrong with it."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float32]]
SHAPES: Mapping[str, tuple[int, ...]] = {"weight": (4, 3), "bias": (3,)}
HUGE = 1e6
app = ClientApp()


def updated(arrays: Arrays, partition: int) -> Arrays:
    """Half of the way to where this client wants the model."""
    random = np.random.default_rng(partition)
    wanted = {name: random.normal(size=shape).astype("float32") for name, shape in SHAPES.items()}
    return {name: (value + wanted[name]) / 2 for name, value in arrays.items()}


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train, and in the rounds that the node config names spoil what comes of it."""
    config, partition = context.node_config, int(context.node_config["partition"])
    number = int(str(message.content.config_records["config"]["server-round"]))
    begin(Path(str(config["mark"])), number)
    before = {k: v.numpy() for k, v in message.content.array_records["arrays"].items()}
    after = updated(before, partition)
    if number <= int(config["until"]):
        after = spoilt(str(config["fault"]), before, after)
    reply = RecordDict()
    reply["arrays"] = ArrayRecord({name: Array(value) for name, value in after.items()})
    reply["metrics"] = MetricRecord({"num-examples": 1, "partition": partition})
    return Message(reply, reply_to=message)


def begin(mark: Path, number: int) -> None:
    """Tell whoever watches that a round has begun here."""
    new = mark.with_suffix(".new")
    new.write_text(str(number))
    new.rename(mark)


def spoilt(fault: str, before: Arrays, after: Arrays) -> Arrays:
    """What a broken client sends; or it sends nothing."""
    match fault.split():
        case ["raises"]:
            raise OSError("the sensor is unplugged")
        case ["nan"]:
            return {name: value * np.float32("nan") for name, value in after.items()}
        case ["shape"]:
            return after | {"weight": after["weight"][:2]}
        case ["broadcast"]:
            return after | {"weight": after["weight"][:1]}
        case ["keys"]:
            return {f"my.{name}": value for name, value in after.items()}
        case ["zero"]:
            return before
        case ["huge"]:
            return {name: before[name] + HUGE * (after[name] - before[name]) for name in before}
        case ["exits"]:
            os._exit(3)
        case ["slow", seconds]:
            time.sleep(float(seconds))
    return after
