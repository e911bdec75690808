"""What clients say of the params they received: against plain computations, with every learner."""

from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit, logit
from torch import Tensor

from fedmeta.client_function import Own, Train
from fedmeta.client_state import ClientStates
from fedmeta.cohort import Cohort
from fedmeta.config import parse
from fedmeta.engines.loop import Loop
from fedmeta.engines.recorded import Recorded
from fedmeta.engines.vmap import Vmap
from fedmeta.initial import first_params
from fedmeta.learners import LEARNERS, Learner
from fedmeta.learners.ditto import Ditto
from fedmeta.learners.heads import FedBabu, FedPer, FedRep
from fedmeta.learners.imaml import Imaml
from fedmeta.learners.maml import Anil, Boil, Fomaml, Maml, MamlPlusPlus, MetaSgd
from fedmeta.learners.per_fedavg import PerFedAvg
from fedmeta.learners.protonet import ProtoNet
from fedmeta.learners.proximal import MinibatchProx, PFedMe
from fedmeta.learners.reptile import Reptile
from fedmeta.learners.sgd import FedProx, LocalOnly, LocalSgd
from fedmeta.measuring import loss_sigmoid, measured
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.padding import Padded, pad
from fedmeta.types import Batch, Episode, Metrics, Params, Update

WAYS, ROUNDING = 3, 1e-12
EXAMPLE = [0.1, 0.5, 1.0, 2.0, 4.0]
UNIT = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def alpha(*losses: float, temperature: float = 1.0, dtype: torch.dtype = torch.float64) -> float:
    values = torch.tensor(losses, dtype=dtype)
    return float(loss_sigmoid(values, torch.ones_like(values), temperature))


def root(losses: "np.ndarray", counts: "np.ndarray") -> float:
    """By bisection and interpolation, which need no derivative: ``g(1/2) >= 1/2`` and ``g(1) <= 1``."""
    shares = counts / counts.sum()

    def gap(a: float) -> float:
        return float((shares * expit(a * losses)).sum() - a)

    return float(brentq(gap, 0.5 - 1e-9, 1 + 1e-9, xtol=1e-16, rtol=1e-15))


def allowed(examples: int, dtype: torch.dtype) -> float:
    """A mean of n values in [0, 1] is off by at most n u, and so is its Newton step, whose slope is 1/2
    or more: 2 n u, and a few u for the sigmoid and the last subtraction."""
    return (2 * examples + 16) * UNIT[dtype]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        *[(0, 0.5), (0.1, 0.513), (0.5, 0.571), (1, 0.659), (2, 0.844), (3, 0.944), (4, 0.981)],
        *[(log(5), 0.778), (log(10), 0.885), (log(62), 0.983)],
    ],
)
def test_the_weight_of_one_loss(loss: float, expected: float) -> None:
    """The root of ``a = sigmoid(a L)`` to three digits, also at the losses of guessing among classes."""
    assert alpha(loss) == pytest.approx(expected, abs=0.0005)


def test_one_loss_has_an_inverse() -> None:
    """``L = logit(a) / a``. A unit of rounding in a is ``1 / (a (1 - a))`` of them in its logit."""
    for loss in np.linspace(0.01, 8, 300):
        found = alpha(loss)
        condition = 1 / (found**2 * (1 - found))
        assert logit(found) / found == pytest.approx(loss, abs=4 * condition * 2.0**-52)


def test_the_examples_of_a_client_do_not_count_as_their_mean() -> None:
    assert alpha(0.1, 4) == pytest.approx(0.734, abs=0.0005)
    assert alpha((0.1 + 4) / 2) == pytest.approx(0.851, abs=0.0005)


def test_no_client_counts_twice_another() -> None:
    """At losses 0.1 to 4 the ratio is 1.91; and 1/2 to 1 is all there is, whatever the loss."""
    weights = [alpha(loss) for loss in EXAMPLE]
    assert max(weights) / min(weights) == pytest.approx(1.91, abs=0.005)
    assert alpha(0) == 0.5
    assert alpha(0, 0, 0) == 0.5
    assert alpha(1e3) == alpha(1e30) == 1


@given(
    st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e3)), min_size=1, max_size=20),
    st.sampled_from([0.1, 1.0, 5.0]),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_it_is_the_root(losses, temperature, dtype, seed) -> None:
    """For any mixture and weights of its examples, some of them 0, in the precision of the losses."""
    values = torch.tensor(losses, dtype=dtype)
    counts = torch.randint(0, 3, values.shape, generator=torch.Generator().manual_seed(seed))
    counts[0] = 1
    found = loss_sigmoid(values, counts.to(dtype), temperature)
    expected = root(values.double().numpy() / temperature, counts.numpy())
    assert 0.5 <= found <= 1
    assert found.dtype == dtype
    assert float(found) == pytest.approx(expected, abs=allowed(len(losses), dtype))


@pytest.mark.parametrize("loss", [0.0, 1e-8, 2e-7, 30.0, 1e3])
def test_rounding_leaves_no_weight_outside_its_bounds(loss: float) -> None:
    """Of ten examples in float32, ten tenths sum to more than 1; of 12 that are perfect, to less."""
    for examples in range(1, 60):
        assert 0.5 <= alpha(*[loss] * examples, dtype=torch.float32) <= 1


def test_an_example_that_counts_nothing_changes_nothing() -> None:
    losses, counts = torch.tensor([[0.1, 7.0, 4.0], [1.0, 0.0, 1.0]], dtype=torch.float64)
    assert float(loss_sigmoid(losses, counts)) == pytest.approx(alpha(0.1, 4), abs=1e-15)


def test_the_temperature_divides_the_losses() -> None:
    assert alpha(0.2, 8, temperature=2) == pytest.approx(alpha(0.1, 4), abs=1e-15)


def opened(learner: Learner, kind: str = "cross_entropy") -> tuple[Objective, Params]:
    """One hidden layer of tanh, in float64."""
    objective = Objective(Mlp([6], activation="tanh").build((2,), WAYS), kind)  # type: ignore[arg-type]
    params = initial_params(objective.module, 1, torch.float64)
    return objective, learner.init(objective, params, torch.Generator().manual_seed(1))


def drawn(clients: int, draws: int, queries: int = 5, kind: str = "cross_entropy") -> Episode:
    """``[clients, draws, ...]``: four to learn from, of all classes, and some to be judged by."""
    generator = torch.Generator().manual_seed(clients + 10 * draws + queries)

    def batch(examples: int) -> Batch:
        shape = clients, draws, examples
        x = 2 * torch.randn(*shape, 2, generator=generator, dtype=torch.float64)
        y = torch.randn(*shape, WAYS, generator=generator, dtype=torch.float64)
        labels = torch.cat([torch.arange(WAYS).expand(*shape[:2], -1), y.argmax(-1)], dim=2)
        return Batch(x, labels[..., :examples] if kind == "cross_entropy" else y)

    return Episode(batch(4), batch(queries))


def net(params: Params, x: Tensor) -> Tensor:
    hidden = torch.tanh(x @ params["linear0.weight"].T + params["linear0.bias"])
    return hidden @ params["head.weight"].T + params["head.bias"]


def losses(params: Params, batch: Batch) -> Tensor:
    """``log sum exp - logit of the class``, of every example."""
    logits = net(params, batch.x)
    return logits.exp().sum(dim=1).log() - logits[torch.arange(len(batch.y)), batch.y]


def accuracy(params: Params, batch: Batch) -> float:
    return float((net(params, batch.x).argmax(dim=1) == batch.y).double().mean())


def descended(params: Params, batches: list[Batch], lr: float) -> Params:
    for batch in batches:
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        grads = torch.autograd.grad(losses(leaves, batch).mean(), list(leaves.values()))
        params = {k: v - lr * g for (k, v), g in zip(params.items(), grads, strict=True)}
    return params


def maml(params: Params, support: Batch) -> tuple[Params, Params]:
    return params, descended(params, [support] * 3, 0.2)


def reptile(params: Params, support: Batch) -> tuple[Params, Params]:
    """Three steps on two examples each: the first two, the last two, the first two again."""
    halves = [Batch(support.x[i : i + 2], support.y[i : i + 2]) for i in (0, 2, 0)]
    return params, descended(params, halves, 0.2)


def nothing(params: Params, support: Batch) -> tuple[Params, Params]:
    return params, params


def nearest_mean(params: Params, support: Batch) -> tuple[Params, Params]:
    """Logits ``-|f - c|^2``, less ``-|f|^2``, which all classes of an example share."""
    features = torch.tanh(support.x @ params["linear0.weight"].T + params["linear0.bias"])
    means = torch.stack([features[support.y == way].mean(dim=0) for way in range(WAYS)])
    zero = {name: torch.zeros_like(params[name]) for name in ("head.weight", "head.bias")}
    head = {"head.weight": 2 * means, "head.bias": -means.square().sum(dim=1)}
    return params | zero, params | head


PLAIN = {
    "maml": (Maml(inner_lr=0.2, inner_steps=3, episodes=2), maml),
    "reptile": (Reptile(inner_lr=0.2, inner_steps=3, batch_size=2, episodes=2), reptile),
    "sgd": (LocalSgd(lr=0.2, epochs=1, batch_size=2), nothing),
    "protonet": (ProtoNet(episodes=2), nearest_mean),
}


@pytest.mark.parametrize(("learner", "adapt"), PLAIN.values(), ids=PLAIN)
def test_scores_are_those_of_a_plain_computation(learner, adapt) -> None:
    """Means over the draws; alpha is of the query examples of all draws together."""
    objective, params = opened(learner)
    episodes = drawn(1, learner.draws)
    episodes = Episode(*(Batch(part.x[0], part.y[0]) for part in episodes))
    rows, every = [], []
    for draw in range(learner.draws):
        support, query = episodes.draw(draw)
        before, after = adapt(params, support)
        every.append(losses(after, query))
        rows.append(
            {
                "loss_before": float(losses(before, query).mean()),
                "accuracy_before": accuracy(before, query),
                "loss_after": float(every[-1].mean()),
                "accuracy_after": accuracy(after, query),
                "support_loss": float(losses(after, support).mean()),
            }
        )
    expected = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
    values = torch.cat(every).numpy() / 0.7
    expected["alpha"] = root(values, np.ones_like(values))
    found = measured(learner, objective, params, episodes, 0.7)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-12), name


def test_values_have_losses_only() -> None:
    learner = Maml(inner_lr=0.1, inner_steps=1)
    objective, params = opened(learner, "mean_squared_error")
    episodes = drawn(1, 1, kind="mean_squared_error")
    episodes = Episode(*(Batch(part.x[0], part.y[0]) for part in episodes))
    found = measured(learner, objective, params, episodes)
    assert found.keys() == {"loss_before", "loss_after", "support_loss", "alpha"}
    query = episodes.draw(0).query
    each = (net(params, query.x) - query.y).square().mean(dim=1)
    assert float(found["loss_before"]) == pytest.approx(float(each.mean()), rel=1e-12)


EVERY: dict[str, Learner] = {
    "maml": Maml(inner_lr=0.1, inner_steps=2, episodes=2),
    "fomaml": Fomaml(inner_lr=0.1, inner_steps=2),
    "anil": Anil(inner_lr=0.1, inner_steps=2),
    "boil": Boil(inner_lr=0.1, inner_steps=2),
    "meta-sgd": MetaSgd(inner_lr=0.1, inner_steps=2),
    "maml++": MamlPlusPlus(inner_lr=0.1, inner_steps=2),
    "imaml": Imaml(lam=2.0, inner_lr=0.1, inner_steps=2, cg_steps=2),
    "per-fedavg": PerFedAvg(alpha=0.1, beta=0.1, local_steps=2, batch_size=3),
    "minibatch prox": MinibatchProx(lam=0.5, inner_lr=0.1, inner_steps=2, batch_size=4),
    "pfedme": PFedMe(lam=15, inner_lr=0.05, inner_steps=2, batch_size=4, local_steps=2),
    "reptile": Reptile(inner_lr=0.1, inner_steps=3, batch_size=4),
    "protonet": ProtoNet(episodes=2),
    "sgd": LocalSgd(lr=0.1, epochs=1, batch_size=4),
    "fedprox": FedProx(lr=0.1, epochs=1, batch_size=4, mu=0.1),
    "local only": LocalOnly(lr=0.1, epochs=1, batch_size=4),
    "ditto": Ditto(lr=0.1, epochs=1, batch_size=4, lam=0.5),
    "fedper": FedPer(lr=0.1, epochs=1, batch_size=4),
    "fedrep": FedRep(lr=0.1, epochs=1, batch_size=4, head_epochs=1),
    "fedbabu": FedBabu(lr=0.1, epochs=1, batch_size=4),
}


def test_every_learner_is_here() -> None:
    assert {type(learner) for learner in EVERY.values()} == set(LEARNERS.values())


def train(engine, learner: Learner, measure: bool = True, clients: int = 5) -> Update:
    objective, params = opened(learner)
    sizes = torch.arange(1, clients + 1, dtype=torch.float64)
    function = Train(learner, objective, 1.0, calls=2, measure=measure, temperature=2.0)
    return engine.map(function, params, Own(drawn(clients, learner.draws), {}, sizes))


@pytest.mark.parametrize("learner", EVERY.values(), ids=EVERY)
def test_vmap_measures_what_the_loop_measures(relative_error, learner: Learner) -> None:
    expected, found = (train(engine, learner).metrics for engine in (Loop(), Vmap(2)))
    assert {"loss_after", "accuracy_after", "alpha"} < expected.keys()
    assert relative_error(found, expected) < ROUNDING


@pytest.mark.parametrize(
    "learner", [Fomaml(inner_lr=0.1, inner_steps=1), ProtoNet()], ids=["fomaml", "protonet"]
)
def test_recorded_programs_measure_what_the_loop_measures(relative_error, learner: Learner) -> None:
    engine = Recorded(5)
    expected, found = (train(e, learner).metrics for e in (Loop(), engine))
    assert len(engine.programs) == 1
    assert relative_error(found, expected) < ROUNDING


@pytest.mark.parametrize("learner", EVERY.values(), ids=EVERY)
def test_measuring_changes_no_bit_of_the_update(learner: Learner) -> None:
    plain, measuring = (train(Loop(), learner, measure) for measure in (False, True))
    for a, b in ((plain.delta, measuring.delta), (plain.state, measuring.state)):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert all(torch.equal(plain.metrics[k], measuring.metrics[k]) for k in ("loss", "examples"))


@pytest.mark.parametrize("kind", ["cross_entropy", "mean_squared_error"])
def test_padding_counts_nothing(relative_error, kind) -> None:
    """Two draws of 5 queries, alone and beside a client that has 8."""
    learner = Maml(inner_lr=0.1, inner_steps=2, episodes=2)
    objective, params = opened(learner, kind)
    short, long = drawn(1, 2, 5, kind), drawn(1, 2, 8, kind)
    padded = pad([short, long])

    def of(judge: Objective, stack: Episode) -> Metrics:
        return measured(
            learner, judge, params, Episode(*(Batch(part.x[0], part.y[0]) for part in stack)), 3.0
        )

    assert padded.query.y.shape[2] == 8
    found = of(Padded(objective.module, kind), padded)
    assert relative_error(found, of(objective, short)) < ROUNDING


@pytest.mark.parametrize("kind", ["cross_entropy", "mean_squared_error"])
def test_padding_has_no_loss(kind) -> None:
    """Also in float32, where the square of what stands for no target is infinite."""
    objective, params = opened(Maml(inner_lr=0.1, inner_steps=1), kind)
    params = {name: value.float() for name, value in params.items()}
    short, long = drawn(1, 1, 5, kind), drawn(1, 1, 8, kind)
    x, y = (part[0, 0] for part in pad([short, long]).query)
    y = y if kind == "cross_entropy" else y.float()
    judge = Padded(objective.module, kind)
    output = judge.predict(params, x.float())
    assert judge.losses(output, y)[5:].tolist() == [0, 0, 0]
    assert torch.equal(judge.losses(output, y)[:5], objective.losses(output[:5], y[:5]))
    assert judge.counts(y).tolist() == [1] * 5 + [0] * 3


def test_a_client_of_a_padded_block_measures_what_it_measures_alone(
    relative_error, tmp_path: Path
) -> None:
    """Shards of 8 to 10: all of each is drawn, and a block of them is one padded call."""
    experiment = parse("""
        {name: padded, rounds: 1, model: {name: mlp, hidden: [6]},
        data: {name: sinusoid, shots: 3, queries: null, examples: 10, least_examples: 8,
               clients: {train: 20, val: 6, test: 6}},
        learner: {name: maml, inner_lr: 0.02, inner_steps: 2}, strategy: {name: pyramid},
        cohort: {clients: 20}, engine: {name: loop, device: cpu, dtype: float64},
        evaluation: {every: 1, steps: 2, clients: 6}}""")
    block = replace(Cohort.open(experiment), engine=Vmap(20), measure=True, temperature=2.0)
    params, clients = first_params(experiment)[0], list(range(12))
    together = block.train(params, clients, 1, ClientStates(tmp_path)).columns
    assert len(set(together["examples"].tolist())) > 1
    assert block.drawing.tried == {("train", 8, 10): True, ("train", 9, 10): True}
    for row, client in enumerate(clients):
        alone = block.train(params, [client], 1, ClientStates(tmp_path)).columns
        mine = {name: values[row : row + 1] for name, values in together.items()}
        assert relative_error(mine, alone) < ROUNDING
