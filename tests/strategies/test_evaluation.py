"""What is said of unseen clients: means, intervals, the worst tenth, and who did not answer."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from flwr.app import ArrayRecord, Error, Message, RecordDict

from fedmeta.config import Experiment, load
from fedmeta.evaluation import Scores
from fedmeta.wire import Work, pack_scores, unpack_work
from strategies.evaluation import (
    Scoring,
    collect,
    interval,
    score,
    summarise,
    worst_decile,
)
from strategies.roster import Roster
from strategies.stock import STRATEGIES

Reply = Callable[[int, RecordDict | Error], Message]
NOBODY: tuple[range, ...] = ()
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def regression() -> Experiment:
    """Scores before and after one step."""
    return load(CONFIGS / "quickstart.yaml", ["evaluation.steps=1"], STRATEGIES)


@pytest.fixture
def classification() -> Experiment:
    return load(CONFIGS / "omniglot_maml.yaml", ["evaluation.steps=1"], STRATEGIES)


def normal(count: int) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)


def float64(values: list[float] | list[list[float]]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def scores(*clients: int) -> RecordDict:
    """Client c has the losses 2c and c, before and after one step."""
    losses = torch.tensor([[2.0 * c, 1.0 * c] for c in clients])
    return pack_scores(Scores(list(clients), {"loss": losses}))


def under_way(asked: dict[int, list[int]], *absent: int) -> Scoring:
    return Scoring([], asked, absent)


@pytest.mark.parametrize("count", [2, 3, 30, 600])
def test_the_interval_is_scipys_t_interval(count: int) -> None:
    values = normal(count)
    sample = values.numpy()
    low, high = scipy.stats.t.interval(
        0.95, count - 1, loc=sample.mean(), scale=scipy.stats.sem(sample)
    )
    half = interval(values)
    np.testing.assert_allclose([sample.mean() - half, sample.mean() + half], [low, high], rtol=1e-9)


def test_two_clients_by_hand() -> None:
    """Values 0 and 2: standard error 1; the 97.5 % point of t with one degree is tan(0.475 pi)."""
    assert interval(float64([0.0, 2.0])) == pytest.approx(np.tan(0.475 * np.pi), rel=1e-12)


def test_one_client_has_no_interval() -> None:
    assert interval(torch.tensor([0.5])) is None
    assert summarise({"loss": torch.tensor([0.5])}) == {"loss": 0.5, "loss_ci95": None}


@pytest.mark.parametrize(
    ("count", "expected"), [(1, 1.0), (10, 1.0), (11, 1.5), (20, 1.5), (21, 2.0), (100, 5.5)]
)
def test_the_worst_decile_is_the_mean_of_the_lowest_tenth(count: int, expected: float) -> None:
    """Of 1, 2, ..., n the lowest k = ceil(n / 10) have the mean (k + 1) / 2."""
    shuffled = np.random.default_rng(0).permutation(np.arange(1.0, count + 1)).tolist()
    assert worst_decile(shuffled) == expected


def test_a_summary_of_classification_has_it_all() -> None:
    accuracy = float64([0.2, 0.4, 0.6, 0.8])
    loss = float64([4.0, 3.0, 2.0, 3.0])
    row = summarise({"loss": loss, "accuracy": accuracy})
    assert row == {
        "loss": 3.0,
        "accuracy": pytest.approx(0.5, rel=1e-15),
        "loss_ci95": interval(loss),
        "accuracy_ci95": interval(accuracy),
        "accuracy_worst_decile": 0.2,
    }


def test_answers_are_put_in_client_order(reply: Reply, regression: Experiment) -> None:
    messages = [reply(3, scores(2, 8)), reply(2, scores(5))]
    report = collect(messages, under_way({2: [5], 3: [2, 8]}), regression)
    assert report.scores.clients == [2, 5, 8]
    assert report.scores.curves["loss"].tolist() == [[4.0, 2.0], [10.0, 5.0], [16.0, 8.0]]
    assert report.missing == 0


def test_who_does_not_answer_is_counted_with_the_reason(
    reply: Reply, regression: Experiment
) -> None:
    messages = [reply(2, scores(1, 4)), reply(3, Error(code=2, reason="gone"))]
    report = collect(messages, under_way({2: [1, 4], 3: [5, 6], 4: [7]}), regression)
    assert (report.scores.clients, report.missing) == ([1, 4], 3)
    assert report.scores.failures == {5: "gone", 6: "gone", 7: "no reply in time"}


def test_no_answer_is_an_empty_report(regression: Experiment) -> None:
    report = collect([], under_way({2: [0, 1]}), regression)
    assert (report.scores.clients, report.missing) == ([], 2)


def test_a_second_answer_of_a_node_counts_for_nothing(reply: Reply, regression: Experiment) -> None:
    messages = [reply(2, scores(5)), reply(2, scores(5))]
    report = collect(messages, under_way({2: [5]}), regression)
    assert (report.scores.clients, report.missing) == ([5], 0)


FINE = [[1.0, 1.0]]


@pytest.mark.parametrize(
    "bad",
    [
        RecordDict(),
        scores(5, 6),
        pack_scores(Scores([5], {"accuracy": float64(FINE)})),
        pack_scores(Scores([5], {"loss": float64(FINE), "praise": float64(FINE)})),
        pack_scores(Scores([5], {"loss": float64([[1.0, 1.0, 1.0]])})),
        pack_scores(Scores([5], {"loss": float64([[1.0, float("nan")]])})),
        pack_scores(Scores([5], {"loss": float64(FINE).long()})),
        pack_scores(Scores([], {}, {5: "its disk is broken"})),
    ],
    ids=["empty", "others", "no loss", "more names", "other steps", "NaN", "integers", "failed"],
)
def test_a_bad_answer_costs_only_its_own_clients(
    reply: Reply, regression: Experiment, bad: RecordDict
) -> None:
    messages = [reply(2, bad), reply(3, scores(2, 8))]
    report = collect(messages, under_way({2: [5], 3: [2, 8]}), regression)
    assert (report.scores.clients, report.missing) == ([2, 8], 1)
    assert report.scores.failures.keys() == {5}


@pytest.mark.parametrize("loss", [-1e-9, -1e30])
def test_no_loss_is_below_zero(reply: Reply, regression: Experiment, loss: float) -> None:
    bad = pack_scores(Scores([5], {"loss": float64([[1.0, loss]])}))
    report = collect([reply(2, bad), reply(3, scores(2))], under_way({2: [5], 3: [2]}), regression)
    assert (report.scores.clients, report.diverged) == ([2], {5})


def test_clients_that_answered_have_a_say_of_the_params(
    reply: Reply, regression: Experiment
) -> None:
    """3 diverged. 6 was not reached and 7 did not answer, and that is not the params' fault."""
    bad = pack_scores(Scores([3], {"loss": float64([[1.0, float("inf")]])}))
    messages = [reply(2, scores(2)), reply(3, bad), reply(4, Error(code=2, reason="gone"))]
    report = collect(messages, under_way({2: [2], 3: [3], 4: [6], 5: [7]}), regression)
    clients, said = report.said()
    assert clients.tolist() == [2, 3]
    assert (float(said[0]), said.isnan().tolist()) == (-2.0, [False, True])


@pytest.mark.parametrize("accuracy", [-0.1, 1.1, 1e9])
def test_no_client_is_better_than_perfect(
    reply: Reply, classification: Experiment, accuracy: float
) -> None:
    def answer(client: int, accuracy: float) -> RecordDict:
        curves = {"loss": float64(FINE), "accuracy": float64([[0.2, accuracy]])}
        return pack_scores(Scores([client], curves))

    messages = [reply(2, answer(5, accuracy)), reply(3, answer(2, 1.0))]
    report = collect(messages, under_way({2: [5], 3: [2]}), classification)
    assert report.scores.clients == [2]
    assert report.row()["after"]["accuracy"] == 1.0


def test_a_row_has_before_after_and_the_curve_between(reply: Reply, regression: Experiment) -> None:
    row = collect([reply(2, scores(1, 3))], under_way({2: [1, 3], 3: [4]}), regression).row()
    before = {"loss": (2 * 1 + 2 * 3) / 2, "loss_ci95": interval(float64([2.0, 6.0]))}
    after = {"loss": (1 + 3) / 2, "loss_ci95": interval(float64([1.0, 3.0]))}
    assert row == {
        "clients": 2, "missing": 1, "before": before, "after": after, "curve": [before, after]
    }  # fmt: skip


def test_every_node_is_asked_for_the_clients_it_hosts(regression: Experiment) -> None:
    """Client 9 was there before, and is not connected now."""
    hosts = {node: (NOBODY, (range(c, c + 2),), NOBODY) for node, c in {2: 0, 3: 2}.items()}
    scoring = score(Roster(hosts), np.array([0, 1, 3, 9]), ArrayRecord(), regression, 4)
    asked = {m.metadata.dst_node_id: unpack_work(m.content) for m in scoring.messages}
    text = regression.to_yaml()
    assert asked == {2: Work(text, 4, [0, 1]), 3: Work(text, 4, [3])}
    assert {m.metadata.message_type for m in scoring.messages} == {"evaluate"}
    assert {m.metadata.ttl for m in scoring.messages} == {regression.cohort.timeout}
    assert scoring.absent == [9]


def test_who_is_not_connected_is_missing(reply: Reply, regression: Experiment) -> None:
    report = collect([reply(2, scores(1))], under_way({2: [1]}, 9), regression)
    assert (report.scores.clients, report.scores.failures) == ([1], {9: "not connected"})
