"""What an owner reads is what happened, and nothing that is private."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedmeta.client_app import app
from fedmeta.config import parse
from fedmeta.data.shard import Shard, write_shard
from fedmeta.device_log import BYTES, FILES, logged
from fedmeta.errors import FedmetaError, RefusedError
from fedmeta.evaluation import Scores, curve
from fedmeta.host import Host
from fedmeta.initial import first_params, objective
from fedmeta.node import answer
from fedmeta.packing import pack_params
from fedmeta.replies import Replies
from fedmeta.types import Params
from fedmeta.wire import Work, pack_replies, pack_scores, pack_work, size, unpack_replies

CONFIG = """
name: heights
seed: 0
rounds: 3
data: {name: own_values, shots: 4, queries: 5, shape_of_inputs: [1]}
model: {name: mlp, hidden: [6]}
learner: {name: maml, inner_lr: 0.02, inner_steps: 2, episodes: 2}
strategy: {name: fedavg}
cohort: {clients: 3}
engine: {name: loop, device: cpu, dtype: float64}
evaluation: {every: 1, steps: 3, clients: 5}
"""
Ask = Callable[..., Message]
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "
TRAFFIC = r"[,;] \d+\.\d s, (\S+) kB in, (\S+) kB out"


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Outside a Flower process a message cannot be made without an identity; and no log stays open."""
    names = ("_task_id", "_run_id", "_node_id")
    before = [getattr(TaskIdentity, name) for name in names]
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    log = logging.getLogger("fedmeta.device")
    state = log.handlers, log.propagate, log.level
    yield
    for handler in log.handlers:
        with suppress(OSError):
            handler.close()
    log.handlers, log.propagate = state[:2]
    log.setLevel(state[2])
    for name, value in zip(names, before, strict=True):
        setattr(TaskIdentity, name, value)


def shard(client: int = 7) -> Shard:
    """A dozen numbers that nothing else has."""
    x = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None] * 0.8765432
    return Shard("own_values", client, "train", x, 31.41592 * x.sin())


def work(params: Params, clients: list[int], config: str = CONFIG, round: int = 2) -> RecordDict:
    return pack_work(pack_params(params), Work(config, round, clients, run="0af3"))


@pytest.fixture
def params() -> Params:
    return first_params(parse(CONFIG))[0]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """A message to a device with a shard, as Flower would hand it over."""
    write_shard(shard(), tmp_path / "mine.safetensors")

    def openly(kind: str, content: RecordDict, **config: Any) -> Message:
        host = {"shard": str(tmp_path / "mine.safetensors"), "states": str(tmp_path / "states")}
        context = Context(1, 1, host | config, RecordDict(), {})
        return app(Message(content, 1, kind), context)

    return openly


def lines(folder: Path) -> list[str]:
    return (folder / "states" / "log.txt").read_text().splitlines()


def kilobytes(content: RecordDict) -> str:
    return f"{size(content) / 1e3:,.1f}"


def test_every_message_is_a_line(tmp_path: Path, ask: Ask, params: Params) -> None:
    for kind in ("query", "train", "evaluate", "train"):
        ask(kind, work(params, [7]))
    found = [re.sub(STAMP, "", line) for line in lines(tmp_path)]
    assert [line.split()[0] for line in found] == ["query", "train", "evaluate", "train"]
    assert all(re.match(STAMP, line) for line in lines(tmp_path))


def test_a_query_is_said_with_its_bytes(tmp_path: Path, ask: Ask, params: Params) -> None:
    content = work(params, [])
    reply = ask("query", content)
    (line,) = lines(tmp_path)
    found = re.fullmatch(STAMP + "query     heights: said which clients are here" + TRAFFIC, line)
    assert found, line
    assert found.groups() == (kilobytes(content), kilobytes(reply.content))


def test_training_is_said_with_the_losses_before_and_after(
    tmp_path: Path, ask: Ask, params: Params
) -> None:
    """The means over both episodes' queries, before and after 2 steps."""
    content = work(params, [7])
    reply = ask("train", content)
    experiment = parse(CONFIG)
    held = experiment.data.hold([shard()], torch.device("cpu"), torch.float64)
    episodes = held.draw(np.array([7]), 2, 0, "train", 2).draw(0)
    loss = objective(experiment)

    def after(index: int) -> float:
        now = {name: value.clone().requires_grad_() for name, value in params.items()}
        for _ in range(2):
            grads = torch.autograd.grad(loss(now, episodes.draw(index).support), [*now.values()])
            now = {n: w - 0.02 * g for (n, w), g in zip(now.items(), grads, strict=True)}
        return loss(now, episodes.draw(index).query).item()

    before = sum(loss(params, episodes.draw(index).query).item() for index in (0, 1)) / 2
    said = f"client 7, loss {before:.4f} -> {(after(0) + after(1)) / 2:.4f}; 2 episodes"
    (line,) = lines(tmp_path)
    found = re.fullmatch(STAMP + f"train     heights round 2: {re.escape(said)}" + TRAFFIC, line)
    assert found, line
    assert found.groups() == (kilobytes(content), kilobytes(reply.content))


def test_scoring_is_said_with_the_scores_before_and_after(
    tmp_path: Path, ask: Ask, params: Params
) -> None:
    ask("evaluate", work(params, [7], round=5))
    experiment = parse(CONFIG)
    held = experiment.data.hold([shard()], torch.device("cpu"), torch.float64)
    episodes = held.draw(np.array([7]), 1, 0, "evaluate").draw(0)
    losses = curve(experiment.learner, objective(experiment), params, episodes, 3)["loss"].tolist()
    (line,) = lines(tmp_path)
    said = f"evaluate  heights round 5: client 7, loss {losses[0]:.4f} -> {losses[3]:.4f}; "
    assert said in line


def described(kind: str, reply: RecordDict, folder: Path) -> str:
    """The line of a reply, whoever made it."""
    message = Message(work({"w": torch.zeros(2)}, [1]), 1, kind)
    with logged(folder / "log.txt", message) as log:
        log(Message(reply, reply_to=message))
    return (folder / "log.txt").read_text().splitlines()[-1]


def trained(clients: list[int], failures: Mapping[int, str]) -> RecordDict:
    ones = torch.ones(len(clients))
    columns = {"examples": 5 * ones, "loss": ones, "loss_before": 3 * ones} if clients else {}
    deltas = {"w": torch.zeros(len(clients), 2)} if clients else {}
    return pack_replies(Replies(clients, deltas, columns, dict(failures)))


@pytest.mark.parametrize(
    ("clients", "failures", "said"),
    [
        ([4], {}, "client 4, loss 3.0000 -> 1.0000; "),
        ([4, 5, 9], {}, "client 4, 5, 9, loss 3.0000 -> 1.0000; "),
        ([4, 5, 6, 9], {}, "client 4 of them, loss 3.0000 -> 1.0000; "),
        ([4], {5: "OSError: x"}, "client 4; client 5 failed: OSError: x, loss 3.0000 -> 1.0000; "),
        ([], {5: "DataError: a\nb"}, "no client; client 5 failed: DataError: a b; "),
        (
            [],
            {c: "E" for c in range(5)},
            "no client; client 0 failed: E; client 1 failed: E; client 2 failed: E; ",
        ),
    ],
)
def test_who_was_trained_and_who_failed(
    tmp_path: Path, clients: list[int], failures: dict[int, str], said: str
) -> None:
    assert f"round 2: {said}" in described("train", trained(clients, failures), tmp_path)


def test_scores_of_several_clients_are_means(tmp_path: Path) -> None:
    curves = {
        "loss": torch.tensor([[2.0, 1.0], [4.0, 2.0]]),
        "accuracy": torch.tensor([[0.2, 0.5], [0.4, 0.75]]),
    }
    reply = pack_scores(Scores([4, 5], curves, {6: "OSError: gone"}))
    assert (
        "round 2: client 4, 5; client 6 failed: OSError: gone, "
        "loss 3.0000 -> 1.5000, accuracy 0.3000 -> 0.6250; "
    ) in described("evaluate", reply, tmp_path)
    nobody = pack_scores(Scores([], {}, {6: "gone"}))
    assert "no client; client 6 failed: gone; " in described("evaluate", nobody, tmp_path)


def test_what_is_refused_is_named_and_raised(tmp_path: Path, ask: Ask, params: Params) -> None:
    with pytest.raises(RefusedError):
        ask("train", work(params, [7]), **{"max-steps": 2})
    (line,) = lines(tmp_path)
    reason = "the gradient steps of an evaluation are 3, the owner allows max-steps 2"
    assert re.fullmatch(STAMP + f"train    failed: RefusedError: {reason}", line)


def test_what_is_broken_is_named_and_raised(tmp_path: Path, ask: Ask, params: Params) -> None:
    (tmp_path / "mine.safetensors").write_bytes(b"no shard")
    with pytest.raises(FedmetaError):
        ask("query", work(params, [7]))
    assert "query    failed: DataError: shard " in lines(tmp_path)[0]
    with pytest.raises(KeyError):
        ask("evaluate", RecordDict())
    assert "evaluate failed: KeyError: " in lines(tmp_path)[1]
    assert len(lines(tmp_path)) == 2


def test_a_failure_is_one_line_of_bounded_length(tmp_path: Path) -> None:
    message = Message(RecordDict(), 1, "train")
    with (
        pytest.raises(ValueError, match="long"),
        logged(tmp_path / "log.txt", message),
    ):
        raise ValueError("long\n" * 10_000)
    (line,) = (tmp_path / "log.txt").read_text().splitlines()
    assert len(line) < 400


def test_no_data_no_param_and_no_key_is_in_the_log(
    tmp_path: Path, ask: Ask, params: Params
) -> None:
    """But for the losses no number of more than one decimal; of the config nothing but its name."""
    secret = CONFIG + "start: /home/owner/secret.safetensors\n"
    for kind in ("query", "train", "evaluate"):
        reply = ask(kind, work(params, [7]))
        ask(kind, work(params, [7], secret))
    with pytest.raises(ValueError, match="do not fit"):
        ask("train", work(params | {"extra": torch.ones(3) / 7}, [7]))
    text = "\n".join(lines(tmp_path))
    assert text.count("\n") == 6
    assert not re.search(r"\d\.\d\d", re.sub(r"loss \d+\.\d{4} -> \d+\.\d{4}", "", text))
    assert str(tmp_path) not in text
    assert "secret" not in text
    assert "0af3" not in text
    assert reply.content


def test_a_log_that_cannot_be_written_harms_nothing(
    tmp_path: Path, ask: Ask, params: Params
) -> None:
    (tmp_path / "file").write_text("in the way")
    for log in (tmp_path, tmp_path / "file" / "log.txt", Path("/proc/nowhere/log.txt")):
        reply = ask("train", work(params, [7]), log=str(log))
        assert reply.content
        with pytest.raises(RefusedError):
            ask("train", work(params, [7]), log=str(log), learners="sgd")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_harms_nothing(ask: Ask, params: Params, capfd) -> None:
    for _ in range(2):
        assert ask("train", work(params, [7]), log="/dev/full").content
    assert "heights round 2" in capfd.readouterr().err  # the owner's console has it


def test_an_owner_may_have_the_log_elsewhere(tmp_path: Path, ask: Ask, params: Params) -> None:
    ask("train", work(params, [7]), log=str(tmp_path / "new" / "else.txt"))
    assert (tmp_path / "new" / "else.txt").read_text().count("\n") == 1
    assert not (tmp_path / "states" / "log.txt").exists()


def test_without_a_log_nothing_is_written_nor_computed_for_it(
    tmp_path: Path, params: Params
) -> None:
    with logged(None, Message(RecordDict(), 1, "train")) as log:
        log(Message(RecordDict(), 1, "train"))
    write_shard(shard(), tmp_path / "mine.safetensors")
    without, beside = (
        unpack_replies(
            answer(
                "train",
                work(params, [7]),
                Host(tmp_path / "states", tmp_path / "mine.safetensors", log),
            )
        )
        for log in (None, tmp_path / "log.txt")
    )
    assert not (tmp_path / "states").exists()
    assert beside.columns.keys() - without.columns.keys() == {"loss_before"}
    assert all(beside.deltas[name].equal(value) for name, value in without.deltas.items())


def test_a_long_log_is_turned_over_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("x" * BYTES)
    for number in range(FILES):
        (tmp_path / f"log.txt.{number + 1}").write_text(f"old {number + 1}")
    line = described("train", trained([4], {}), tmp_path)
    assert path.read_text() == line + "\n"
    assert len((tmp_path / "log.txt.1").read_text()) == BYTES
    assert [(tmp_path / f"log.txt.{n}").read_text() for n in (2, 3)] == ["old 1", "old 2"]
    assert len(list(tmp_path.iterdir())) == 1 + FILES


def test_message_after_message_leaves_one_file_open(tmp_path: Path) -> None:
    def opened() -> int:
        return sum(
            path.resolve() == tmp_path / "log.txt" for path in Path("/proc/self/fd").iterdir()
        )

    for _ in range(5):
        described("train", trained([4], {}), tmp_path)
    assert opened() == 1
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 5
