"""The adapter to Flower's strategies: one step at a time is what Flower's objects do over a run."""

import gc
import random
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.types import Metrics, Params
from strategies.flower import STOCK, flower_needs, flower_options, flower_step, flower_strategy

OPTIONS: dict[str, dict[str, Any]] = {
    "Bulyan": {"num_malicious_nodes": 1},
    "FedAdagrad": {"eta": 0.3},
    "FedAdam": {"eta": 0.3, "beta_1": 0.8, "tau": 0.1},
    "FedAvg": {},
    "FedAvgM": {"server_momentum": 0.9, "server_learning_rate": 0.5},
    "FedMedian": {},
    "FedTrimmedAvg": {"beta": 0.25},
    "FedYogi": {"eta": 0.3, "tau": 0.1},
    "Krum": {"num_malicious_nodes": 2},
    "MultiKrum": {"num_malicious_nodes": 2, "num_nodes_to_select": 3},
    "QFedAvg": {"client_learning_rate": 0.5, "q": 2},
}
SHAPES = {"z.last": (3, 2), "scalar": (), "a.first": (4,)}
CLIENTS, ROUNDS = 9, 4
ROUNDING = {torch.float32: 2.0**-20, torch.float64: 2.0**-49}
"""Two places of params between 4 and 8. FedAvgM's object goes on from params of its own."""
every_kind = pytest.mark.parametrize("kind", sorted(STOCK))


def draw(seed: int, dtype: torch.dtype, *leading: int) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn((*leading, *shape), generator=generator, dtype=dtype)
        for name, shape in SHAPES.items()
    }


def answers(round: int, dtype: torch.dtype) -> tuple[Params, Metrics]:
    """Deltas and columns of a round."""
    generator = torch.Generator().manual_seed(100 + round)
    examples = torch.randint(1, 30, (CLIENTS,), generator=generator)
    loss = torch.rand(CLIENTS, generator=generator).double()
    return draw(round, dtype, CLIENTS), {"examples": examples, "loss": loss}


def record(params: Params) -> ArrayRecord:
    return ArrayRecord({name: Array(value.numpy()) for name, value in params.items()})


class Nodes:
    """All that a strategy asks of a grid."""

    def get_node_ids(self) -> list[int]:
        return list(range(1, CLIENTS + 1))


class Object:
    """A strategy as Flower has it: one object for a run, which sends params and is given replies."""

    def __init__(self, strategy: FedAvg) -> None:
        self.strategy, self.round = strategy, 0

    def __call__(self, params: Params, deltas: Params, columns: Metrics) -> Params:
        self.round += 1
        grid = cast(Grid, Nodes())
        asked = list(
            self.strategy.configure_train(self.round, record(params), ConfigRecord(), grid)
        )
        replies = []
        for message in sorted(asked, key=lambda message: message.metadata.dst_node_id):
            i = message.metadata.dst_node_id - 1
            own = {name: value - deltas[name][i] for name, value in params.items()}
            said = {
                "num-examples": int(columns["examples"][i]),
                "train_loss": float(columns["loss"][i]),
            }
            content = RecordDict({"arrays": record(own), "metrics": MetricRecord(dict(said))})
            replies.append(Message(content, reply_to=message))
        gc.freeze()  # else Flower looks through all of torch's objects, once for each reply
        arrays, _ = self.strategy.aggregate_train(self.round, replies)
        gc.unfreeze()
        assert arrays is not None
        return {name: torch.from_numpy(arrays[name].numpy()) for name in params}


def kept(memory: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """To a file and back, which puts names in another order."""
    save_file(memory, folder / "memory.safetensors")
    return dict(reversed(load_file(folder / "memory.safetensors").items()))


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_those_of_an_object_that_lives_as_long_as_the_run(
    kind: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Both begin every round at the same params; what is remembered goes to a file and back."""
    whole = Object(STOCK[kind](**OPTIONS[kind]))
    params, memory = draw(0, dtype), {}
    for round in range(1, ROUNDS + 1):
        deltas, columns = answers(round, dtype)
        expected = whole(params, deltas, columns)
        delta, memory = flower_step(kind, OPTIONS[kind], params, deltas, columns, memory)
        memory = kept(memory, tmp_path)
        for name, old in params.items():
            assert delta[name].shape == old.shape
            assert delta[name].dtype == dtype
            difference = (old.double() - expected[name].double()).to(dtype)
            torch.testing.assert_close(delta[name], difference, rtol=0, atol=ROUNDING[dtype])
        params = {name: value.to(dtype) for name, value in expected.items()}
    assert memory["round"] == ROUNDS


def test_what_is_remembered() -> None:
    deltas, columns = answers(1, torch.float32)
    params = draw(0, torch.float32)
    names = {
        kind: _names(flower_step(kind, OPTIONS[kind], params, deltas, columns, {})[1])
        for kind in STOCK
    }
    moments = {"m_t", "v_t", "round"}
    expected = {"FedAdam": moments, "FedAdagrad": moments, "FedYogi": moments}
    expected["FedAvgM"] = {"momentum_vector", "round"}
    assert names == {kind: expected.get(kind, {"round"}) for kind in STOCK}


def _names(memory: dict[str, Tensor]) -> set[str]:
    return {name.split("/")[0] for name in memory}


@every_kind
def test_nothing_is_written_to_and_nothing_is_drawn(kind: str) -> None:
    params = draw(0, torch.float32)
    deltas, columns = answers(1, torch.float32)
    _, memory = flower_step(kind, OPTIONS[kind], params, deltas, columns, {})
    given = (params, deltas, columns, memory)
    before = [{name: value.clone() for name, value in part.items()} for part in given]
    state = random.getstate()
    first = flower_step(kind, OPTIONS[kind], *given)
    again = flower_step(kind, OPTIONS[kind], *given)
    assert random.getstate() == state
    for part, was in zip(given, before, strict=True):
        assert all(torch.equal(part[name], was[name]) for name in was)
    for found, other in zip(first, again, strict=True):
        assert all(torch.equal(found[name], other[name]) for name in found)


def test_all_kinds_are_there_whose_arrays_are_averaged() -> None:
    """Flower's own list, without XGBoost, the wrappers for differential privacy and FedProx."""
    import flwr.serverapp.strategy as flower

    found = {
        name
        for name in flower.__all__
        if isinstance(kind := getattr(flower, name), type) and issubclass(kind, FedAvg)
    }
    assert found - {"FedXgbBagging", "FedProx", "FedXgbCyclic"} == set(STOCK)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"strategy\.kind must be one of Bulyan, .*, got 'FedBest'"
    ):
        flower_strategy("FedBest", {})


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("FedAdam", {"lr": 1}, "lr is no option of FedAdam, which takes: eta, eta_l, beta_1, beta_2, tau"),
        ("FedAvg", {"eta": 1}, "eta is no option of FedAvg, which takes: none"),
        ("FedAvg", {"fraction_train": 0.5}, "fraction_train is no option of FedAvg"),
        ("QFedAvg", {"client_learning_rate": 1, "train_loss_key": "l"}, "train_loss_key is no option"),
        ("Bulyan", {"selection_rule": "krum"}, "selection_rule is no option of Bulyan"),
        ("QFedAvg", {"q": 1}, "client_learning_rate is missing, QFedAvg needs it"),
        ("QFedAvg", {"client_learning_rate": 0}, "client_learning_rate must be a number above 0, got 0"),
        ("FedAdam", {"eta": "fast"}, "eta must be a number of 0 or more, got 'fast'"),
        ("FedAdam", {"eta": float("nan")}, "eta must be a number of 0 or more, got nan"),
        ("FedAdam", {"eta": True}, "eta must be a number of 0 or more, got True"),
        ("Krum", {"num_malicious_nodes": 1.5}, "num_malicious_nodes must be a whole number of 0 or more, "),
        ("Krum", {"num_malicious_nodes": -1}, "num_malicious_nodes must be a whole number of 0 or more, "),
        ("MultiKrum", {"num_nodes_to_select": 0}, "num_nodes_to_select must be a whole number above 0"),
    ],
)  # fmt: skip
def test_bad_options_are_refused(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^strategy\.options\.{message}"):
        flower_strategy(kind, options)


def test_what_flower_refuses_is_passed_on() -> None:
    with pytest.raises(ConfigError, match=r"strategy\.options of FedTrimmedAvg: `beta` must be in"):
        flower_strategy("FedTrimmedAvg", {"beta": 0.5})


def test_a_bulyan_that_would_skip_the_round_is_refused() -> None:
    """7 clients are enough for one attacker; Flower would leave the params as they are."""
    assert flower_needs("Bulyan", {"num_malicious_nodes": 2}).least == 11
    deltas, columns = answers(1, torch.float32)
    with pytest.raises(ConfigError, match=r"options\.num_malicious_nodes 2 needs 11 .*, got 9"):
        flower_step(
            "Bulyan", {"num_malicious_nodes": 2}, draw(0, torch.float32), deltas, columns, {}
        )


@every_kind
def test_options_of_this_test_are_all_options(kind: str) -> None:
    assert set(OPTIONS[kind]) <= set(flower_options(kind))
