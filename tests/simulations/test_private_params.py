"""What stays on a node is in no message: neither its name nor one of its tensors, either way."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from flwr.app import Error, RecordDict
from flwr.common.serde import recorddict_to_proto

from fedmeta.checkpoint import read_checkpoint
from fedmeta.data import DATASETS
from fedmeta.data.federation import Clients, Purpose
from fedmeta.data.sinusoid import Sinusoid, SinusoidFederation
from fedmeta.initial import first_params
from fedmeta.objective import Kind
from fedmeta.packing import unpack_params
from fedmeta.seeding import Part
from fedmeta.tracking.recorder import Recorders
from fedmeta.types import Batch, Episode, Params
from simulations.executors.local import LocalExecutor
from simulations.grid import CohortGrid
from strategies.server import federate
from strategies.state import STATES, load_state
from tests.simulations.conftest import small_with

ALL = {f"linear{i}.{part}" for i in (0, 1) for part in ("weight", "bias")}
HEAD = {"head.weight", "head.bias"}
LORA = {f"lora/linear{i}.weight/{part}" for i in (0, 1) for part in ("a", "b")}
FILM = {f"film/linear{i}/{part}" for i in (0, 1) for part in ("scale", "shift")}
SGD = "lr: 0.02, epochs: 1, batch_size: 10"
TRAVELS = {
    f"{{name: fedbabu, {SGD}}}": ALL,
    f"{{name: fedper, {SGD}}}": ALL,
    f"{{name: fedrep, {SGD}, head_epochs: 1}}": ALL,
    f"{{name: ditto, {SGD}, lam: 0.5}}": ALL | HEAD,
    "{name: protonet}": ALL,
    "{name: maml, inner_lr: 0.01, inner_steps: 1, adapt: lora, freeze: true}": HEAD | LORA,
    "{name: maml, inner_lr: 0.01, inner_steps: 1, adapt: film, freeze: true}": HEAD | FILM,
    "{name: maml, inner_lr: 0.01, inner_steps: 1}": ALL | HEAD,
}


class Signs(Sinusoid):
    """Whether a sine is above zero: as small as regression, but of two classes."""

    @property
    def outputs(self) -> int:
        return 2

    @property
    def objective(self) -> Kind:
        return "cross_entropy"

    def open(self, seed: int, device: torch.device, dtype: torch.dtype) -> "SignsFederation":
        return SignsFederation(self, seed, device, dtype)


class SignsFederation(SinusoidFederation):
    def draw(
        self, clients: Clients, draws: int, seed: int, purpose: Purpose, *address: Part
    ) -> Episode:
        episodes = super().draw(clients, draws, seed, purpose, *address)
        return Episode(*(Batch(part.x, (part.y[..., 0] > 0).long()) for part in episodes))


class Overheard(LocalExecutor):
    """A node whose messages and answers are kept."""

    def __init__(self, states: Path) -> None:
        super().__init__(states)
        self.heard: list[tuple[str, RecordDict]] = []

    def execute(
        self, message_type: str, work: Sequence[tuple[int, RecordDict]]
    ) -> list[RecordDict | Error]:
        answers = super().execute(message_type, work)
        self.heard += [(message_type, content) for _, content in work]
        for answer in answers:
            assert isinstance(answer, RecordDict)
            self.heard.append((f"{message_type} reply", answer))
        return answers


def secrets(private: Params, states: Path) -> list[bytes]:
    """Every tensor that stays: as the node began with it, and as any client keeps it."""
    kept = [read_checkpoint(path)[0] for path in states.rglob("*.safetensors")]
    tensors = [tensor for params in (private, *kept) for tensor in params.values()]
    return [tensor.numpy().tobytes() for tensor in tensors if tensor.numel() > 1 and tensor.any()]


@pytest.mark.parametrize("replies", ["sum", "each"])
@pytest.mark.parametrize("learner", TRAVELS)
def test_private_params_are_in_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learner: str, replies: str
) -> None:
    monkeypatch.setitem(DATASETS, "signs", Signs)
    experiment = small_with(
        tmp_path, learner, "data.name=signs", "rounds=2", f"cohort.replies={replies}"
    )
    executor = Overheard(tmp_path / STATES)
    federate(experiment, CohortGrid(executor), tmp_path, Recorders([]))
    for kind, content in executor.heard:
        if kind in ("train", "evaluate"):
            assert set(unpack_params(content.array_records["params"])) == TRAVELS[learner]
        if kind == "train reply":
            assert set(unpack_params(content.array_records["deltas"])) == TRAVELS[learner]
        if kind == "evaluate reply":
            assert set(unpack_params(content.array_records["curves"])) == {"loss", "accuracy"}
    assert [kind for kind, _ in executor.heard].count("train reply") == 2

    travels, private = first_params(experiment)
    assert not travels.keys() & private.keys()
    assert load_state(tmp_path, experiment).params.keys() == TRAVELS[learner]
    sent = b"".join(
        recorddict_to_proto(content).SerializeToString() for _, content in executor.heard
    )
    shared = [values for values in travels.values() if values.any()]
    assert all(values.numpy().tobytes() in sent for values in shared)  # so they would be found
    at_home = secrets(private, tmp_path / STATES)
    if "ditto" in learner:  # whose personal params begin as a copy of those that travel
        at_home = secrets({}, tmp_path / STATES)
    assert bool(at_home) == bool(private)
    assert not any(secret in sent for secret in at_home)
