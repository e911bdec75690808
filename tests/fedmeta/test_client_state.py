"""A client's own state: what it kept before a round, to the bit, and nobody else's."""

import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedmeta.checkpoint import read_checkpoint, write_checkpoint
from fedmeta.client_state import ClientStates
from fedmeta.cohort import Cohort
from fedmeta.config import parse
from fedmeta.data.federation import Clients, Purpose
from fedmeta.data.sinusoid import SinusoidFederation
from fedmeta.engines.vmap import Vmap
from fedmeta.errors import ConfigError, RunFolderError
from fedmeta.initial import first_params
from fedmeta.replies import Replies
from fedmeta.seeding import Part
from fedmeta.types import Episode, Params

FIRST = {"head.weight": torch.full((2, 3), 0.5), "head.bias": torch.tensor(-1.0)}


def numbered(*values: float) -> Params:
    """States of as many clients, each full of its own number."""
    stack = torch.tensor(values)
    return {
        name: stack.reshape(-1, *[1] * w.ndim).expand(-1, *w.shape) for name, w in FIRST.items()
    }


def files(states: ClientStates, client: int) -> list[str]:
    return sorted(path.name for path in (states.folder / str(client)).iterdir())


@pytest.fixture
def states(tmp_path: Path) -> ClientStates:
    return ClientStates(tmp_path / "states")


# The files


def test_a_client_without_a_state_begins_with_the_first(states: ClientStates) -> None:
    states.write([7], 1, numbered(7))
    found = states.read([5, 7, 6], 2, FIRST)
    for name, first in FIRST.items():
        assert torch.equal(found[name][[0, 2]], torch.stack([first, first]))
        assert (found[name][1] == 7).all()


def test_reading_writes_nothing(states: ClientStates) -> None:
    states.read([5, 7], 2, FIRST)
    assert not states.folder.exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_state_comes_back_to_the_bit(states: ClientStates, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    stack = {
        name: torch.randn(3, *first.shape, generator=generator, dtype=dtype)
        for name, first in FIRST.items()
    }
    states.write([4, 2**40, 0], 3, stack)
    first = {name: values.to(dtype) for name, values in FIRST.items()}
    found = states.read([0, 4, 2**40], 4, first)
    assert all(torch.equal(found[name], values[[2, 0, 1]]) for name, values in stack.items())
    assert {values.dtype for values in found.values()} == {dtype}


@pytest.mark.parametrize(("round", "seen"), [(1, 0.5), (2, 0.5), (3, 2), (5, 2), (6, 5), (99, 5)])
def test_a_round_sees_the_state_before_it(states: ClientStates, round: int, seen: float) -> None:
    """Of rounds 2 and 5; a round that is computed again does not see what it wrote itself."""
    for trained in (2, 5):
        states.write([7], trained, numbered(trained))
    assert (states.read([7], round, FIRST)["head.weight"] == seen).all()


def test_the_latest_state_and_the_one_before_it_are_kept(states: ClientStates) -> None:
    for round in (1, 2, 9, 10, 11):
        states.write([7], round, numbered(round))
    assert files(states, 7) == ["10.safetensors", "11.safetensors"]


def test_a_round_that_is_computed_again_replaces_its_own_state_only(states: ClientStates) -> None:
    for round in (1, 2, 2):
        states.write([7], round, numbered(round))
    assert files(states, 7) == ["1.safetensors", "2.safetensors"]


def test_what_was_written_after_the_round_is_forgotten(states: ClientStates) -> None:
    """A killed run wrote round 4; the run resumed from round 2 trains this client in round 3."""
    for round in (2, 4, 3):
        states.write([7], round, numbered(round))
    assert files(states, 7) == ["2.safetensors", "3.safetensors"]


def test_a_file_is_one_clients_state_alone(states: ClientStates) -> None:
    """Not a view that would take the whole cohort to disk."""
    states.write(list(range(500)), 1, numbered(*range(500)))
    kept, header = read_checkpoint(states.folder / "3" / "1.safetensors")
    assert (kept["head.weight"] == 3).all()
    assert header == {"client": 3, "round": 1}
    assert (states.folder / "3" / "1.safetensors").stat().st_size < 500


def test_a_full_disk_leaves_the_state_before(states: ClientStates) -> None:
    states.write([7], 1, numbered(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
    try:
        with pytest.raises(RunFolderError, match="cannot be written"):
            states.write([7], 2, numbered(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(states, 7) == ["1.safetensors"]
    assert (states.read([7], 3, FIRST)["head.weight"] == 1).all()


@pytest.mark.parametrize(
    "name", ["../x", "..", "a/b", "/etc", "", ".", "run", "AB", "0af3\n", "\x00", "a" * 65]
)
def test_the_name_of_a_run_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name of a run must be hexadecimal"):
        ClientStates.of(tmp_path, name)


def test_runs_do_not_share_states(tmp_path: Path) -> None:
    one, other = (ClientStates.of(tmp_path, name) for name in ("0af3", "0af4"))
    one.write([7], 1, numbered(1))
    assert (other.read([7], 2, FIRST)["head.weight"] == 0.5).all()
    assert (ClientStates.of(tmp_path, "0af3").read([7], 2, FIRST)["head.weight"] == 1).all()


# The clients of a node

LEARNERS = {
    "ditto": "{name: ditto, lr: 0.02, epochs: 1, batch_size: 4, lam: 0.5}",
    "fedper": "{name: fedper, lr: 0.02, epochs: 1, batch_size: 4}",
    "fedrep": "{name: fedrep, lr: 0.02, epochs: 1, batch_size: 4, head_epochs: 1}",
}
every_learner = pytest.mark.parametrize("learner", LEARNERS)


def opened(learner: str) -> tuple[Cohort, Params]:
    """Clients whose private params are kept, and what the server sends them first."""
    experiment = parse(f"""
        {{name: kept, seed: 0, rounds: 9, model: {{name: mlp, hidden: [6]}}, strategy: {{}},
        data: {{name: sinusoid, shots: 4, queries: 5, examples: 12,
                clients: {{train: 90, val: 5, test: 5}}}},
        learner: {LEARNERS[learner]}, cohort: {{clients: 3}},
        engine: {{name: loop, device: cpu, dtype: float64}},
        evaluation: {{every: 1, steps: 1, clients: 5}}}}""")
    return Cohort.open(experiment), first_params(experiment)[0]


class Spoilt(SinusoidFederation):
    """Sines of which client 7's hold no numbers."""

    def draw(
        self, clients: Clients, draws: int, seed: int, purpose: Purpose, *address: Part
    ) -> Episode:
        episodes = super().draw(clients, draws, seed, purpose, *address)
        episodes.support.y[torch.as_tensor(clients == 7)] = torch.nan
        return episodes


def spoilt(block: Cohort) -> Cohort:
    sines = block.federation
    assert isinstance(sines, SinusoidFederation)
    federation = Spoilt(sines.dataset, sines.seed, sines.device, sines.dtype)
    return replace(block, drawing=replace(block.drawing, federation=federation))


def same(a: Params, b: Params) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def same_replies(a: Replies, b: Replies) -> bool:
    return a.clients == b.clients and same(a.deltas, b.deltas) and same(a.columns, b.columns)


@every_learner
def test_a_round_goes_on_from_the_clients_own_state(states: ClientStates, learner: str) -> None:
    """Two rounds by hand: the state that a client returned is what it has in its next round."""
    block, params = opened(learner)
    own: dict[int, Params] = dict.fromkeys(range(5), block.private)
    for round, clients in ((1, [3, 0, 2]), (2, [0, 1, 3]), (4, [3, 2, 4])):
        replies = block.train(params, clients, round, states)
        assert replies.failures == {}
        for row, client in enumerate(clients):
            ids = torch.tensor([client]).numpy()
            episodes = block.federation.draw(ids, 1, 0, "train", round).draw(0)
            expected = block.learner.update(
                block.objective, params | own[client], episodes, (round - 1) / 9
            )
            assert same({name: d[row] for name, d in replies.deltas.items()}, expected.delta)
            assert not same(expected.state, own[client])
            own[client] = expected.state
        found = states.read(list(own), round + 1, block.private)
        assert same(found, {n: torch.stack([s[n] for s in own.values()]) for n in block.private})


@every_learner
def test_a_client_whose_delta_is_no_number_keeps_its_old_state(
    states: ClientStates, learner: str
) -> None:
    block, params = opened(learner)
    block.train(params, [6, 7, 8], 1, states)
    before = states.read([7], 9, block.private)
    replies = spoilt(block).train(params, [6, 7, 8], 2, states)
    assert not torch.isfinite(replies.deltas["linear0.weight"][1]).all()
    assert same(states.read([7], 9, block.private), before)
    assert [files(states, client)[-1] for client in (6, 7, 8)] == [
        f"{round}.safetensors" for round in (2, 1, 2)
    ]


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def of_another_model(path: Path) -> None:
    write_checkpoint(path, {"other": torch.zeros(2)}, {"client": 7, "round": 1})


@every_learner
def test_a_torn_state_loses_its_client_a_round(
    states: ClientStates, learner: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And not the one before it; where that is torn too, more would be lost, and the client fails."""
    block, params = opened(learner)
    block.train(params, [7, 8], 1, states)
    earlier = states.read([7, 8], 2, block.private)
    torn(states.folder / "7" / "1.safetensors")
    first = {name: value[None] for name, value in block.private.items()}
    assert same(states.read([7], 2, block.private), first)
    block.train(params, [8], 2, states)
    torn(states.folder / "8" / "2.safetensors")
    found = states.read([8], 3, block.private)
    assert same(found, {name: values[1:] for name, values in earlier.items()})
    assert "client 8 goes on from an earlier state" in caplog.text
    assert block.train(params, [7, 8], 3, states).failures == {}
    for round in (2, 3):
        torn(states.folder / "8" / f"{round}.safetensors")
    with pytest.raises(RunFolderError, match="is not a readable checkpoint"):
        states.read([8], 4, block.private)


def test_what_a_client_keeps_is_its_owners_alone_to_read(states: ClientStates) -> None:
    block, params = opened("fedper")
    block.train(params, [7], 1, states)
    assert (states.folder / "7" / "1.safetensors").stat().st_mode & 0o777 == 0o600


@every_learner
def test_a_state_that_cannot_be_read_fails_its_client_alone(
    states: ClientStates, tmp_path: Path, learner: str
) -> None:
    block, params = opened(learner)
    others = ClientStates(tmp_path / "others")
    for folder, clients in ((states, [6, 7, 8]), (others, [6, 8])):
        block.train(params, clients, 1, folder)
    of_another_model(states.folder / "7" / "1.safetensors")
    harmed = (states.folder / "7" / "1.safetensors").read_bytes()
    with_it = block.train(params, [6, 7, 8], 2, states)
    without_it = block.train(params, [6, 8], 2, others)
    assert list(with_it.failures) == [7]
    assert with_it.failures[7].startswith("KeyError")
    assert same_replies(with_it, without_it)
    found, expected = (s.read([6, 8], 3, block.private) for s in (states, others))
    assert same(found, expected)
    assert (states.folder / "7" / "1.safetensors").read_bytes() == harmed


@every_learner
def test_a_state_that_cannot_be_written_fails_its_client_alone(
    states: ClientStates, learner: str
) -> None:
    """A file lies where the folder of client 7 should be."""
    block, params = opened(learner)
    states.folder.mkdir()
    (states.folder / "7").write_text("in the way")
    replies = block.train(params, [6, 7, 8], 1, states)
    assert replies.clients == [6, 8]
    assert list(replies.failures) == [7]
    assert "cannot be written" in replies.failures[7]
    assert [files(states, client) for client in (6, 8)] == [["1.safetensors"]] * 2


@every_learner
def test_loop_and_vmap_keep_the_same_state(
    states: ClientStates, tmp_path: Path, relative_error, learner: str
) -> None:
    block, params = opened(learner)
    found: list[dict[str, Tensor]] = []
    for number, engine in enumerate((Vmap(2), block.engine)):
        folder = ClientStates(tmp_path / str(number))
        for round in (1, 2):
            replace(block, engine=engine).train(params, [6, 7, 8], round, folder)
        found.append(folder.read([6, 7, 8], 3, block.private))
    assert relative_error(*found) < 1e-12


def test_evaluation_knows_no_state(states: ClientStates) -> None:
    """An unseen client begins with what was received; nobody's kept head is asked for."""
    block, params = opened("fedper")
    before = block.evaluate(params, [3], 2, 1).curves["loss"]
    block.train(params, [3], 1, states)
    assert torch.equal(block.evaluate(params, [3], 2, 1).curves["loss"], before)
