"""Attackers: who they are, what they send, and that nobody else is changed by them."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Error, RecordDict
from scipy.stats import kstest

from fedmeta.attack import Flipped, attackers
from fedmeta.client_state import ClientStates
from fedmeta.cohort import Cohort
from fedmeta.config import Experiment, parse
from fedmeta.data.own import OwnClasses
from fedmeta.data.shard import Shard
from fedmeta.errors import ConfigError, RefusedError, RunFolderError
from fedmeta.host import Host
from fedmeta.initial import first_params
from fedmeta.node import answer
from fedmeta.packing import pack_params
from fedmeta.replies import Replies
from fedmeta.settings import AttackSettings
from fedmeta.types import Batch, Episode, Params
from fedmeta.wire import Work, pack_replies, pack_roster, pack_work, unpack_replies
from simulations.attackers import Attacked, attack
from simulations.executors.local import LocalExecutor
from simulations.grid import CohortGrid
from simulations.run import run
from strategies.sampling import sample
from strategies.server_app import _run
from strategies.state import load_state
from tests.simulations.conftest import CONFIGS, small

ON_DELTAS = ["sign_flip", "noise", "inner_product", "little_is_enough"]
GUILTY = np.array([2, 5])


def settings(name: str, scale: float = 1.0, fraction: float = 0.25) -> AttackSettings:
    return AttackSettings(name, fraction, scale)  # type: ignore[arg-type]


# who


@pytest.mark.parametrize(
    ("clients", "fraction", "count"),
    [(30, 0.0, 0), (30, 0.2, 6), (7, 0.4, 3), (10, 0.99, 10), (100_000, 0.2, 20_000)],
)
def test_as_many_as_the_fraction_says(clients: int, fraction: float, count: int) -> None:
    """7 * 0.4 = 2.8 are 3."""
    found = attackers(range(1000, 1000 + clients), settings("noise", fraction=fraction), 0)
    assert len(set(found.tolist())) == len(found) == count
    assert (np.diff(found) > 0).all()
    assert set(found.tolist()) <= set(range(1000, 1000 + clients))


def test_a_larger_fraction_has_the_attackers_of_a_smaller() -> None:
    sets = [set(attackers(range(50), settings("noise", fraction=f / 10), 3)) for f in range(1, 10)]
    assert all(a < b for a, b in pairwise(sets))


def test_every_client_is_as_likely_an_attacker() -> None:
    """3 of 10 over 2000 seeds: 0.3 with a standard deviation of 0.0102, here within five of them."""
    three = settings("noise", fraction=0.3)
    counts = np.bincount(
        np.concatenate([attackers(range(10), three, seed) for seed in range(2000)])
    )
    assert np.abs(counts / 2000 - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 2000)


def test_a_fraction_that_is_nobody_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"attack\.fraction: 0\.01 of the 30 train clients is nobody"
    ):
        attackers(range(30), settings("noise", fraction=0.01), 0)


# what


def hand_made(clients: Sequence[int]) -> Replies:
    """Client c has the deltas c, -c and 2c, a quarter of c, and 10c examples."""
    c = torch.tensor(clients, dtype=torch.float32)
    deltas = {"w": torch.stack([c, -c, 2 * c], dim=1), "b": c / 4}
    columns = {"examples": 10.0 * c.double(), "loss": c.double()}
    return Replies(list(clients), deltas, columns, {clients[0] + 100: "OSError: unplugged"})


def sent(name: str, scale: float, *nodes: Sequence[int]) -> dict[int, list[float]]:
    """What every client sends in the end, the three w and b."""
    replies = [hand_made(clients) for clients in nodes]
    found = attack(replies, GUILTY, settings(name, scale), seed=0, round=3)
    return {
        client: [*reply.deltas["w"][row].tolist(), float(reply.deltas["b"][row])]
        for reply in found
        for row, client in enumerate(reply.clients)
    }


def test_sign_flip_is_minus_scale_times_ones_own() -> None:
    found = sent("sign_flip", 4.0, [1, 2], [3, 5])
    assert found[2] == [-8.0, 8.0, -16.0, -2.0]
    assert found[5] == [-20.0, 20.0, -40.0, -5.0]


def test_inner_product_is_minus_scale_times_the_mean_of_the_honest() -> None:
    """The honest are 1, 3 and 8, of two nodes: their mean is 4."""
    found = sent("inner_product", 0.5, [1, 2, 3], [5, 8])
    assert found[2] == found[5] == [-2.0, 2.0, -4.0, -0.5]


def test_little_is_enough_is_the_mean_less_so_many_standard_deviations() -> None:
    """The honest are 1, 3 and 8: the mean is 4, the mean square 74/3, the variance 26/3."""
    std = (26 / 3) ** 0.5
    expected = [4 - 1.5 * std, -4 - 1.5 * std, 8 - 3 * std, 1 - 1.5 * std / 4]
    found = sent("little_is_enough", 1.5, [1, 2, 3], [5, 8])
    assert found[2] == found[5] == pytest.approx(expected, rel=1e-6)
    assert sent("little_is_enough", 1.5, [1, 2])[2] == [1.0, -1.0, 2.0, 0.25]  # one has no spread


def test_the_mean_turns_round_where_the_paper_says() -> None:
    """Two of five attack: 3/5 of the honest mean less 2/5 scale, nothing is left at scale 3/2."""
    for scale, left in ((1.0, 0.2), (1.5, 0.0), (2.0, -0.2)):
        found = sent("inner_product", scale, [1, 2, 3], [5, 8])
        assert np.mean(list(found.values()), axis=0)[0] == pytest.approx(left * 4, abs=1e-6)


def noisy(clients: Sequence[int], size: int = 20_000, round: int = 3, seed: int = 0) -> Replies:
    """All attack; client c's delta has the length 3c, and two tensors of unequal size."""
    c = torch.tensor(clients, dtype=torch.float64)
    part = torch.full((len(c), size - 5), 1.0, dtype=torch.float64) * c[:, None]
    deltas = {"a": torch.zeros(len(c), 5, dtype=torch.float64), "b": part * 3 / (size - 5) ** 0.5}
    replies = Replies(list(clients), deltas, {"examples": c})
    (found,) = attack([replies], np.array(clients), settings("noise", 2.0), seed, round)
    return found


def test_noise_is_gaussian_with_the_length_of_the_honest_delta_times_the_scale() -> None:
    """|d| = 3c and scale 2: sigma = 6c / sqrt(20000). A test at a level of 1e-4 with fixed draws."""
    found = noisy([1, 4])
    for row, client in enumerate(found.clients):
        drawn = torch.cat([found.deltas["a"][row], found.deltas["b"][row]]).numpy()
        assert kstest(drawn * 20_000**0.5 / (6 * client), "norm").pvalue > 1e-4


def test_noise_is_anew_for_every_client_round_and_seed_and_the_same_beside_anyone() -> None:
    """Correlations of 20000 independent pairs have a standard deviation of 0.007."""
    draws = [
        noisy([1]).deltas["b"][0],
        noisy([4]).deltas["b"][0],
        noisy([1], round=4).deltas["b"][0],
        noisy([1], seed=1).deltas["b"][0],
    ]
    correlations = np.corrcoef(torch.stack(draws).numpy()) - np.eye(4)
    assert np.abs(correlations).max() < 5 / 20_000**0.5
    assert noisy([1, 4]).deltas["b"][1].equal(draws[1])
    assert noisy([1]).deltas["b"][0].equal(draws[0])


@pytest.mark.parametrize("name", ON_DELTAS)
def test_all_but_the_deltas_of_attackers_is_untouched(name: str) -> None:
    nodes = [hand_made([1, 2, 3]), hand_made([5, 8]), hand_made([9, 10])]
    before = [pack_replies(node) for node in nodes]
    found = attack(nodes, GUILTY, settings(name, 3.0), seed=0, round=1)
    assert found[2] is nodes[2]
    assert [pack_replies(node) for node in nodes] == before  # what came in is not written to
    for old, new in zip(nodes, found, strict=True):
        assert (new.clients, new.failures, new.summed) == (old.clients, old.failures, old.summed)
        assert new.columns is old.columns
        honest = torch.as_tensor(~np.isin(old.clients, GUILTY))
        for key, value in old.deltas.items():
            assert new.deltas[key][honest].equal(value[honest])
            assert new.deltas[key].dtype == value.dtype
            assert not (new.deltas[key][~honest] == value[~honest]).any()


@pytest.mark.parametrize("name", ON_DELTAS)
def test_nodes_and_the_order_of_params_make_no_difference(name: str) -> None:
    """One node; or three in another order, with other params first. To the bit, of unequal float64."""

    def drawn(clients: Sequence[int], names: str) -> Replies:
        generators = [torch.Generator().manual_seed(c) for c in clients]
        sizes = 10.0 ** torch.tensor(list(clients), dtype=torch.float64)[:, None]
        deltas = {
            key: sizes * torch.stack([torch.randn(9, generator=g) for g in generators])
            for key in "abcdefgh"
        }
        examples = torch.ones(len(clients), dtype=torch.float64)
        return Replies(list(clients), {key: deltas[key] for key in names}, {"examples": examples})

    each = [
        attack([drawn(c, names) for c in nodes], np.arange(6), settings(name, 1.5), 0, round=1)
        for names, nodes in (
            ("abcdefgh", [range(12)]),
            ("hcafbged", [range(8, 12), range(3), range(3, 8)]),
        )
    ]
    rows = [
        {
            c: {key: d[i] for key, d in r.deltas.items()}
            for r in found
            for i, c in enumerate(r.clients)
        }
        for found in each
    ]
    assert all(equal(rows[0][client], rows[1][client]) for client in range(12))


@pytest.mark.parametrize("name", ["inner_product", "little_is_enough"])
def test_colluders_leave_out_what_the_server_will(name: str) -> None:
    """Client 3 sends no numbers; node 5 has failed clients alone."""
    broken = hand_made([1, 2, 3, 8])
    broken.deltas["w"][2] = torch.nan
    nodes = [broken, Replies([], {}, {}, {5: "OSError"})]
    found, _ = attack(nodes, GUILTY, settings(name), seed=0, round=1)
    expected, _ = attack([hand_made([1, 2, 8]), nodes[1]], GUILTY, settings(name), seed=0, round=1)
    assert found.deltas["w"][1].equal(expected.deltas["w"][1])


def test_attackers_alone_know_each_other() -> None:
    """Their own deltas, 2 and 5, are all that there is to see: the mean is 3.5."""
    assert sent("inner_product", 2.0, [2], [5])[2] == [-7.0, 7.0, -14.0, -1.75]


class Nodes:
    """Two nodes that host clients 0 to 9; the second has lost its replies."""

    nodes = 2

    def execute(
        self, message_type: str, work: Sequence[tuple[int, RecordDict]]
    ) -> list[RecordDict | Error]:
        if message_type == "query":
            roster = {"train": range(10), "val": range(10, 12), "test": range(12, 14)}
            return [RecordDict({"node": pack_roster("1", roster)}), Error(code=2, reason="gone")]  # type: ignore[arg-type]
        return [pack_replies(hand_made([1, 2, 3, 4, 5, 6, 7, 8, 9])), Error(code=2, reason="gone")]

    def close(self) -> None: ...


def test_only_answers_with_attackers_are_changed() -> None:
    executor = Attacked(Nodes(), settings("sign_flip", fraction=0.3), seed=0)
    assert executor.nodes == 2
    messages = [(node, pack_work(ArrayRecord(), Work("", 7, []))) for node in range(2)]
    assert executor.execute("query", messages)[0] == Nodes().execute("query", messages)[0]
    assert executor.execute("evaluate", messages)[0] == Nodes().execute("evaluate", messages)[0]
    spoilt, error = executor.execute("train", messages)
    assert isinstance(error, Error)
    assert isinstance(spoilt, RecordDict)
    found = unpack_replies(spoilt)
    who = attackers(range(10), settings("sign_flip", fraction=0.3), 0)
    signs = [-1.0 if client in who else 1.0 for client in found.clients]
    assert found.deltas["b"].tolist() == [
        s * c / 4 for s, c in zip(signs, found.clients, strict=True)
    ]


# where


def trained(folder: Path, *overrides: str, resume: bool = False) -> Params:
    folder.mkdir(exist_ok=True)
    experiment = attacked(*overrides)
    run(experiment, folder, resume=resume)
    return load_state(folder, experiment).params


def attacked(*overrides: str) -> Experiment:
    return small("cohort.replies=each", "engine.name=loop", *overrides)


def equal(a: Params, b: Params) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def test_a_fraction_of_nobody_is_no_attack_and_others_are(tmp_path: Path) -> None:
    brief = ("rounds=2", "evaluation.clients=1")
    calm = trained(tmp_path / "calm", *brief)
    for name in ("noise", "label_flip"):
        attack = (*brief, f"attack.name={name}")
        nobody = trained(tmp_path / f"{name} by nobody", *attack, "attack.fraction=0")
        assert equal(nobody, calm)
        assert not equal(trained(tmp_path / name, *attack, "attack.fraction=0.3"), calm)


@pytest.mark.usefixtures("two_ray_cpus")
@pytest.mark.parametrize("name", ["little_is_enough", "label_flip"])
def test_ray_is_bitwise_local(tmp_path: Path, name: str) -> None:
    """Colluders see the deltas of both workers."""
    overrides = (f"attack.name={name}", "attack.fraction=0.3")
    local = trained(tmp_path / "local", *overrides)
    assert equal(trained(tmp_path / "ray", *overrides, "engine.executor=ray"), local)


@pytest.mark.parametrize("name", ["noise", "label_flip"])
def test_resumed_equals_uninterrupted(tmp_path: Path, name: str) -> None:
    """A resumed server has its params in alphabetical order."""
    overrides = (f"attack.name={name}", "attack.fraction=0.3")
    whole = trained(tmp_path / "whole", *overrides)
    trained(tmp_path / "split", *overrides, "rounds=2")
    assert equal(trained(tmp_path / "split", *overrides, resume=True), whole)


def test_another_attack_is_another_run(tmp_path: Path) -> None:
    trained(tmp_path / "run", "attack.name=noise", "attack.fraction=0.3")
    for other in ("attack.name=sign_flip", "attack.fraction=0.2", "attack.scale=2"):
        with pytest.raises(RunFolderError, match="is of another config"):
            load_state(
                tmp_path / "run", attacked("attack.name=noise", "attack.fraction=0.3", other)
            )


def test_the_server_checks_attackers_as_any(tmp_path: Path) -> None:
    """Deltas 1000 times too long: it drops exactly the attackers that the rounds sampled."""
    overrides = ("attack.name=sign_flip", "attack.fraction=0.2", "attack.scale=1000", "rounds=6")
    trained(tmp_path / "run", *overrides)
    who = set(attackers(range(30), settings("sign_flip", fraction=0.2), seed=0).tolist())
    asked = [c for r in range(1, 7) for c in sample(np.arange(30), small().cohort, 0, r)]
    expected = {str(c): asked.count(c) for c in who if c in asked}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {c: d["replies"] for c, d in summary["dropped_clients"].items()} == expected
    assert all("times as long" in d["reason"] for d in summary["dropped_clients"].values())


# label flip


def opened(*overrides: str) -> tuple[Cohort, Params]:
    experiment = parse(
        """
        {name: lies, seed: 0, rounds: 1, model: {name: mlp, hidden: [6]},
        data: {name: sinusoid, shots: 3, queries: null, examples: 12, least_examples: 6,
                clients: {train: 20, val: 6, test: 6}},
        learner: {name: maml, inner_lr: 0.02, inner_steps: 2}, strategy: {name: fedavg},
        cohort: {clients: 20}, engine: {name: loop, device: cpu, dtype: float64},
        evaluation: {every: 1, steps: 2, clients: 6, select: last}}""",
        overrides,
    )
    return Cohort.open(experiment), first_params(experiment)[0]


LIES = ("attack.name=label_flip", "attack.fraction=0.4")


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_a_label_flip_is_training_on_flipped_data(tmp_path: Path, engine: str) -> None:
    """With shards of unequal size, which vmap pads; and by hand, client by client."""
    cohort, params = opened(*LIES, f"engine.name={engine}")
    honest, _ = opened()
    clients, liars = list(range(20)), set(attackers(range(20), settings("", fraction=0.4), 0))
    assert len(liars) == 8
    found = cohort.train(params, clients, 1, ClientStates(tmp_path))
    assert found.failures == {}
    for client in clients:
        episodes = honest.federation.draw(np.array([client]), 1, 0, "train", 1)
        support, query = (Batch(part.x[0], part.y[0]) for part in episodes)
        support = Batch(support.x, -support.y) if client in liars else support
        update = honest.learner.update(honest.objective, params, Episode(support, query), 1.0)
        for name, delta in update.delta.items():
            torch.testing.assert_close(found.deltas[name][client], delta, rtol=1e-9, atol=1e-12)


def test_who_is_scored_is_true(tmp_path: Path) -> None:
    """Also train clients, which attackers are among."""
    curves = [
        cohort.evaluate(params, list(range(32)), steps=2, episodes=1).curves["loss"]
        for cohort, params in (opened(*LIES), opened())
    ]
    assert curves[0].equal(curves[1])


def test_classes_are_numbered_backwards_in_the_support_alone() -> None:
    """Three classes: 0 becomes 2, 1 stays, 2 becomes 0; only of client 1, and only in training."""
    data = OwnClasses(ways=3, shots=2, queries=1, shape_of_inputs=[2])
    x, y = torch.arange(24.0).reshape(12, 2), torch.arange(3).repeat_interleave(4)
    shards = [Shard("own_classes", c, "train", x, y, ("a", "b", "c")) for c in (0, 1)]
    true = data.hold(shards, torch.device("cpu"), torch.float32)
    flipped = Flipped(true, np.array([1]), data.outputs)
    clients = np.array([0, 1])
    lies, truth = (f.draw(clients, 4, 0, "train", 1) for f in (flipped, true))
    assert lies.support.y[0].equal(truth.support.y[0])
    assert lies.support.y[1].equal(torch.tensor([2, 1, 0])[truth.support.y[1]])
    assert lies.support.x.equal(truth.support.x)
    assert lies.query.y.equal(truth.query.y)
    scored = [f.draw(clients, 4, 0, "evaluate").support.y for f in (flipped, true)]
    assert scored[0].equal(scored[1])
    assert flipped.take(1, "own_classes").y.equal(y)


# refusals


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["attack.name=bribe"], r"attack\.name: .*bribe"),
        (["attack.fraction=1"], r"attack\.fraction must be 0 or more, below 1, got 1\.0"),
        (["attack.fraction=-0.1"], r"attack\.fraction must be 0 or more, below 1, got -0\.1"),
        (["attack.fraction=.nan"], r"attack\.fraction must be 0 or more, below 1, got nan"),
        (
            ["attack.fraction=0.1"],
            r"attack\.fraction needs an attack\.name other than none, got 0\.1",
        ),
        (["attack.name=sign_flip"], r"attack\.fraction must be set for sign_flip, 0 for nobody"),
        (["attack.scale=-1"], r"attack\.scale must be a number of 0 or more, got -1\.0"),
        (["attack.scale=.inf"], r"attack\.scale must be a number of 0 or more, got inf"),
        (
            ["attack.name=label_flip", "attack.scale=2"],
            r"attack\.scale has no meaning for label_flip",
        ),
        (
            ["attack.name=noise", "attack.fraction=0.1", "cohort.replies=sum"],
            r"attack\.name: noise changes the delta of a client, .* got sum and exact",
        ),
        (
            [
                "attack.name=noise",
                "attack.fraction=0.1",
                "cohort.replies=each",
                "wire.deltas=int8",
            ],
            r"cohort\.replies must be auto or each and wire\.deltas exact, got each and int8",
        ),
    ],
)
def test_bad_settings(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(*overrides)


def test_labels_lie_in_any_form_of_reply(tmp_path: Path) -> None:
    """Data do not travel: sums of deltas will do."""
    run(small(*LIES, "cohort.replies=sum", "rounds=1", "evaluation.every=1"), tmp_path)


@pytest.mark.parametrize("name", [*ON_DELTAS, "label_flip"])
def test_a_device_refuses_to_be_an_attacker(tmp_path: Path, name: str) -> None:
    experiment = attacked(f"attack.name={name}", "attack.fraction=0.3")
    params = pack_params(first_params(experiment)[0])
    for kind in ("query", "train"):
        content = pack_work(params, Work(experiment.to_yaml(), 1, [1, 2], run="0af3"))
        with pytest.raises(RefusedError, match=r"attackers exist in simulation only") as refusal:
            answer(kind, content, Host(tmp_path))
        assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_a_server_of_devices_refuses_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(CONFIGS.parent)
    asked = {"config": "configs/quickstart.yaml", "resume": "", "run-dir": str(tmp_path / "run")}
    asked["overrides"] = "attack.name=label_flip attack.fraction=0.3"
    with pytest.raises(ConfigError, match=r"attack\.name must be none .*, got label_flip"):
        _run(CohortGrid(LocalExecutor(tmp_path)), asked)
    assert list(tmp_path.iterdir()) == []


# what it is for


def test_a_mean_diverges_where_a_median_converges() -> None:
    """Ten clients with the loss ``(w - 3)^2 / 2`` send its gradient, three of them times -4.

    The mean is ``(7 - 12) / 10`` of the gradient: with a rate of 1/2 the error grows by 5/4 a round. More
    than half are honest, so the median is the gradient: the error halves.
    """
    who = attackers(range(10), settings("sign_flip", fraction=0.3), seed=0)
    errors = {"mean": 1.0, "median": 1.0}
    rules = {"mean": lambda d: d.mean(dim=0), "median": lambda d: d.median(dim=0).values}
    for round in range(1, 21):
        for rule, aggregate in rules.items():
            gradient = torch.full((10, 1), errors[rule], dtype=torch.float64)
            replies = Replies(list(range(10)), {"w": gradient}, {"examples": torch.ones(10)})
            (found,) = attack([replies], who, settings("sign_flip", 4.0), seed=0, round=round)
            errors[rule] -= 0.5 * float(aggregate(found.deltas["w"]))
    assert errors["mean"] == pytest.approx(1.25**20, rel=1e-12)
    assert errors["median"] == pytest.approx(0.5**20, rel=1e-12)
