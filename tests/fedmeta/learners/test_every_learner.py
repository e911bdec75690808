"""What every learner promises, whatever it does."""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from fedmeta.engines import Engine
from fedmeta.engines.loop import Loop
from fedmeta.engines.vmap import Vmap
from fedmeta.errors import ConfigError
from fedmeta.evaluation import curve
from fedmeta.learners import LEARNERS, Learner
from fedmeta.learners.imaml import Imaml
from fedmeta.learners.maml import Maml
from fedmeta.learners.per_fedavg import PerFedAvg
from fedmeta.learners.protonet import ProtoNet
from fedmeta.learners.sgd import LocalOnly
from fedmeta.models import Model
from fedmeta.models.conv4 import Conv4
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Kind, Objective, initial_params
from fedmeta.types import Batch, Episode, Metrics, Params, Update

INNER: dict[str, Any] = {"inner_lr": 0.1, "inner_steps": 2}
LOCAL: dict[str, Any] = {"lr": 0.1, "epochs": 1, "batch_size": 4}
PROXIMAL: dict[str, Any] = {"lam": 2.0, "inner_lr": 0.1, "inner_steps": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "anil": INNER,
    "boil": INNER,
    "ditto": LOCAL | {"lam": 0.5},
    "fedbabu": LOCAL,
    "fedper": LOCAL,
    "fedprox": LOCAL | {"mu": 0.5},
    "fedrep": LOCAL | {"head_epochs": 1},
    "fomaml": INNER,
    "imaml": PROXIMAL | {"cg_steps": 3},
    "local_only": LOCAL,
    "maml": INNER,
    "maml_plus_plus": INNER,
    "meta_sgd": INNER,
    "minibatch_prox": PROXIMAL | {"batch_size": 4},
    # a difference of gradients over a distance p has their rounding times 1 / p
    "per_fedavg": {"alpha": 0.1, "beta": 0.1, "local_steps": 2, "batch_size": 3},
    "pfedme": PROXIMAL | {"batch_size": 4, "local_steps": 2},
    "protonet": {},
    "reptile": INNER | {"batch_size": 4},
    "sgd": LOCAL,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "fedrep whole": ("fedrep", {"finetune": "all"}),
    "imaml newton": ("imaml", {"inner": "hessian_free", "inner_steps": 1, "cg_steps": 2}),
    "maml episodes": ("maml", {"inner_steps": 1, "episodes": 2, "local_steps": 2}),
    "maml film": ("maml", {"adapt": "film"}),
    "maml film frozen": ("maml", {"adapt": "film", "freeze": True, "learn_rates": "per_layer"}),
    "maml lora": ("maml", {"adapt": "lora", "rank": 2}),
    "maml lora frozen": ("maml", {"adapt": "lora", "rank": 2, "freeze": True}),
    "maml recomputed": ("maml", {"checkpoint": True, "multi_step_until": 0.5}),
    "maml scalar rate": ("maml", {"learn_rates": "scalar", "first_order_until": 0.05}),
    "maml++ recomputed": ("maml_plus_plus", {"checkpoint": True}),
    "per_fedavg first order": ("per_fedavg", {"variant": "first_order"}),
    "per_fedavg hessian-free": ("per_fedavg", {"variant": "hessian_free", "probe": 0.1}),
    "protonet episodes": ("protonet", {"episodes": 2}),
    "reptile episodes": ("reptile", {"episodes": 2, "local_steps": 2}),
}
CASES: dict[str, Learner] = {
    name: LEARNERS[name](**settings) for name, settings in SETTINGS.items()
} | {
    variant: LEARNERS[name](**SETTINGS[name] | settings)
    for variant, (name, settings) in VARIANTS.items()
}
MODELS: dict[str, Model] = {
    "conv4 strided": Conv4(4),
    "conv4 pooled": Conv4(4, "pooled"),
    "mlp norm": Mlp([4, 4], norm=True, activation="tanh"),
    "mlp": Mlp([4, 4]),
}
KINDS: dict[str, Kind] = {
    "conv4 strided": "cross_entropy",
    "conv4 pooled": "mean_squared_error",
    "mlp norm": "cross_entropy",
    "mlp": "mean_squared_error",
}
WAYS, CLIENTS, PROGRESS = 3, 3, 0.07
ROUNDING = 1e-12


def test_every_learner_is_here() -> None:
    assert SETTINGS.keys() == LEARNERS.keys()


@dataclass(frozen=True)
class Case:
    """A learner with a model and a loss, and what several tests look at, computed once."""

    learner: Learner
    loss: Objective
    params: Params
    episodes: Episode

    def update(self, params: Params, episodes: Episode) -> Update:
        return self.learner.update(self.loss, params, episodes, PROGRESS)

    def scores(self, params: Params, episodes: Episode) -> Metrics:
        return curve(self.learner, self.loss, params, episodes, 2)

    def of(self, client: int) -> Episode:
        return tree_map(lambda leaf: leaf[client], self.episodes)

    @cached_property
    def private(self) -> frozenset[str]:
        return self.learner.private(self.params)

    @cached_property
    def updates(self) -> Update:
        """Of every client, in the loop."""
        return Loop().map(self.update, self.params, self.episodes)


def noise(shape: tuple[int, ...], kind: Kind, draws: int) -> Episode:
    """A cohort's images of noise: 3 to adapt to, 6 to query, of 3 classes or with 3 numbers each."""
    generator = torch.Generator().manual_seed(2)

    def batch(shots: int) -> Batch:
        sizes = (CLIENTS, draws, shots * WAYS)
        x = torch.randn(*sizes, *shape, generator=generator, dtype=torch.float64)
        if kind == "mean_squared_error":
            return Batch(x, torch.randn(*sizes, 3, generator=generator, dtype=torch.float64))
        return Batch(x, torch.arange(WAYS).repeat(shots).expand(sizes))

    return Episode(batch(1), batch(2))


def opened(learner: Learner, model: Model, kind: Kind) -> Case:
    shape = (1, 16, 16) if isinstance(model, Conv4) else (6,)
    loss = Objective(model.build(shape, WAYS), kind)
    params = initial_params(loss.module, 1, torch.float64)
    params = learner.init(loss, params, torch.Generator().manual_seed(1))
    return Case(learner, loss, params, noise(shape, kind, learner.draws))


def combinations() -> list[tuple[str, str, Kind]]:
    """Every learner with every model; tests/fedmeta/test_engines.py has more of them in training."""
    found: list[tuple[str, str, Kind]] = []
    for name, (model, kind) in product(CASES, KINDS.items()):
        adapters = "lora" in name or "film" in name
        if name in SETTINGS or model == "mlp norm" or (model == "conv4 strided" and adapters):
            found.append((name, model, "cross_entropy" if "protonet" in name else kind))
    return found


@pytest.fixture(scope="module", params=combinations(), ids=" - ".join)
def case(request) -> Case:
    name, model, kind = request.param
    return opened(CASES[name], MODELS[model], kind)


def agree(found: Any, expected: Any) -> None:
    """To 1e-12 of the largest entry of each nest: a bias before a norm has rounding alone."""
    (ours, form), (theirs, expected_form) = tree_flatten(found), tree_flatten(expected)
    assert form == expected_form
    scale = max((float(leaf.abs().max()) for leaf in theirs), default=1.0)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=ROUNDING * scale, rtol=0)


def equal(found: Any, expected: Any) -> bool:
    """To the bit."""
    (ours, form), (theirs, expected_form) = tree_flatten(found), tree_flatten(expected)
    return form == expected_form and all(map(torch.equal, ours, theirs))


def test_vmap_equals_loop_in_training(case: Case) -> None:
    found = Vmap(2).map(case.update, case.params, case.episodes)
    for ours, theirs in zip(found, case.updates, strict=True):  # delta, metrics, state
        agree(ours, theirs)


def test_vmap_equals_loop_in_evaluation(case: Case) -> None:
    expected = Loop().map(case.scores, case.params, case.episodes)
    assert all(scores.shape == (CLIENTS, 3) for scores in expected.values())
    agree(Vmap(2).map(case.scores, case.params, case.episodes), expected)


def test_progress_matters_only_while_something_is_annealed(case: Case) -> None:
    learner, loss, params = case.learner, case.loss, case.params
    ends = (learner.annealed_until, 1.0)
    assert equal(*(learner.update(loss, params, case.of(0), progress) for progress in ends))


def test_what_travels_and_what_stays_are_all_params(case: Case) -> None:
    delta, metrics, state = case.updates
    assert not set(delta) & case.private
    assert set(delta) | case.private == set(case.params)
    assert set(state) == (case.private if case.learner.keeps_state else set())
    for name, values in (delta | state).items():
        assert values.shape == (CLIENTS, *case.params[name].shape)
        assert values.dtype == torch.float64
    assert "loss" in metrics
    assert all(values.shape == (CLIENTS,) for values in metrics.values())
    assert all(leaf.isfinite().all() for leaf in tree_leaves(case.updates))


def test_an_update_is_a_pure_function_of_its_client(case: Case) -> None:
    """Again and alone it is the same to the bit, and what it was given is as it was."""
    given = case.params, case.of(1)
    before = tree_map(torch.clone, given)
    again = case.update(*given)
    assert equal(again, tree_map(lambda leaf: leaf[1], case.updates))
    assert equal(given, before)
    assert not any(leaf.requires_grad for leaf in tree_leaves((given, again)))


def test_a_client_of_a_chunk_does_not_see_its_neighbour(case: Case) -> None:
    """Nor is it touched by one that has numbers of another size."""
    episodes = tree_map(lambda leaf: leaf[:2].clone(), case.episodes)
    episodes.support.x[0] *= 100
    episodes.query.x[0] *= -100
    found = Vmap(2).map(case.update, case.params, episodes)
    for ours, theirs in zip(found, case.updates, strict=True):
        agree(*(tree_map(lambda leaf: leaf[1], nest) for nest in (ours, theirs)))


def test_every_draw_counts(case: Case) -> None:
    """Another first or last episode makes another delta."""
    client = case.of(0)
    for index in {0, case.learner.draws - 1}:
        other = tree_map(torch.clone, client)
        other.query.x[index] *= 1.5
        delta, metrics, _ = case.update(case.params, other)
        mine, my_metrics, _ = tree_map(lambda leaf: leaf[0], case.updates)
        assert not equal(metrics["loss"], my_metrics["loss"])
        assert equal(delta, mine) == isinstance(case.learner, LocalOnly)


def test_a_small_step_against_the_delta_lowers_the_learners_loss(case: Case) -> None:
    """The delta is server minus client. Of an exact gradient g the loss falls by ``|g|^2`` a unit.

    A displacement over a few examples need not lower what batch norm makes of them, but does without.
    """
    client, (delta, _, _) = case.of(0), tree_map(lambda leaf: leaf[0], case.updates)
    if isinstance(case.learner, LocalOnly):
        assert all(not values.any() for values in delta.values())
        return
    squared = sum(values.square().sum() for values in delta.values())
    h = 1e-8 / squared.sqrt()  # kinks of ReLU are rarely so near

    def after(length: float) -> Tensor:
        moved = {name: case.params[name] - length * values for name, values in delta.items()}
        return case.update(case.params | moved, client).metrics["loss"]

    slope = (after(-h) - after(h)) / (2 * h)
    if is_gradient(case.learner):
        assert slope.item() == pytest.approx(squared.item(), rel=1e-5)
    elif not any("norm" in name for name in case.params):
        assert slope > 0


def is_gradient(learner: Learner) -> bool:
    if isinstance(learner, Maml):
        return learner.order == 2 and learner.local_steps == 1
    return isinstance(learner, ProtoNet)


class Attention(nn.Module):
    """With an operator that torch cannot differentiate twice on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden = nn.Linear(2, 8), nn.Linear(8, 4)
        self.head = nn.Linear(4, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        z = self.embed(x)[:, None]  # one attention head
        z = nn.functional.scaled_dot_product_attention(z, z, z)
        return self.head(torch.tanh(self.hidden(z.mean(dim=(1, 2)))))


def second_order(learner: Learner) -> bool:
    if isinstance(learner, Maml):
        return learner.order == 2 and learner.adapt != "head"
    if isinstance(learner, PerFedAvg):
        return learner.variant == "exact"
    return isinstance(learner, Imaml)


@pytest.mark.parametrize("name", CASES)
def test_who_needs_second_derivatives_says_which_the_model_lacks(name: str) -> None:
    """In one line. All others learn."""
    learner, loss = CASES[name], Objective(Attention(), "cross_entropy")
    params = initial_params(loss.module, 0, torch.float64)
    params = learner.init(loss, params, torch.Generator().manual_seed(1))
    x = noise((5, 2), "cross_entropy", learner.draws)
    episodes = tree_map(lambda leaf: leaf[0], x)
    if second_order(learner):
        operator = "_scaled_dot_product_flash_attention_for_cpu_backward"
        with pytest.raises(
            ConfigError, match=rf"^learner\..* needs second derivatives.*{operator}"
        ):
            learner.update(loss, params, episodes, PROGRESS)
    else:
        found = learner.update(loss, params, episodes, PROGRESS)
        assert all(values.isfinite().all() for values in found.delta.values())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("engine", [Loop(), Vmap(2)], ids=str)
def test_in_float32_all_stays_float32(engine: Engine, name: str) -> None:
    case = opened(CASES[name], MODELS["mlp norm"], "cross_entropy")

    def single(leaf: Tensor) -> Tensor:
        return leaf.float() if leaf.is_floating_point() else leaf

    found = engine.map(case.update, tree_map(single, case.params), tree_map(single, case.episodes))
    assert {leaf.dtype for leaf in tree_leaves(found)} == {torch.float32}
