import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from fedmeta.engines import Engine
from fedmeta.engines.loop import Loop
from fedmeta.engines.vmap import Vmap
from fedmeta.errors import ConfigError
from fedmeta.learners.maml import Maml
from fedmeta.learners.meta_gradient import recomputed, unrolled
from fedmeta.models.conv4 import Conv4
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.types import Batch, Episode, Params

WAYS = (unrolled, recomputed)
RATE = 0.3

# Both ways, on functions known in closed form


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "weights",
    [[1.0], [0.0, 1.0], [1.0, 0.0], [0.5, 0.25, 0.25], [0.0, 0.0, 0.0, 2.0], [0.3, 0.0, -1.0, 0.0]],
    ids=str,
)
def test_any_weights_of_any_steps(way, weights) -> None:
    """``w_j = r^j w``, loss ``w_j^2 / 2 + w``: slopes ``v_j (r^2j w + 1)``, ``v_j j r^(2j-1) w^2``.

    The loss looks at w both as the step left it and as it was.
    """
    w, r = (torch.tensor(value, dtype=torch.float64) for value in (1.5, 0.7))

    def step(params: Params, fast: Params, number: int) -> Params:
        return {"w": params["r"] * fast["w"]}

    def query(params: Params, fast: Params) -> Tensor:
        return fast["w"] ** 2 / 2 + params["w"]

    grads, value = way(step, query, {"w": w, "r": r}, ["w"], weights)
    used = list(enumerate(weights))
    assert value.item() == pytest.approx(sum(v * ((r**j * w) ** 2 / 2 + w) for j, v in used))
    assert grads["w"].item() == pytest.approx(sum(v * (r ** (2 * j) * w + 1) for j, v in used))
    assert grads["r"].item() == pytest.approx(
        sum(v * j * r ** (2 * j - 1) * w**2 for j, v in used if j)
    )


@pytest.mark.parametrize("way", WAYS)
def test_steps_know_their_number(way) -> None:
    """Of three steps ``w + a_j``, the value is the sum, the gradient of every ``a_j`` is 1."""
    params = {"w": torch.zeros(()), "a": torch.tensor([1.0, 10.0, 100.0])}

    def step(params: Params, fast: Params, number: int) -> Params:
        return {"w": fast["w"] + params["a"][number]}

    grads, value = way(step, lambda params, fast: fast["w"], params, ["w"], [0.0, 0.0, 0.0, 1.0])
    assert value.item() == 111
    assert grads["a"].tolist() == [1, 1, 1]
    assert grads["w"].item() == 1


@pytest.mark.parametrize("way", WAYS)
def test_what_no_step_looks_at_has_gradient_0(way) -> None:
    params = {"w": torch.ones(2), "idle": torch.ones(3)}
    grads, _ = way(
        lambda params, fast, number: {"w": 2 * fast["w"]},
        lambda params, fast: fast["w"].sum(),
        params,
        ["w"],
        [0.0, 1.0],
    )
    assert grads["w"].tolist() == [2, 2]
    assert grads["idle"].tolist() == [0, 0, 0]


# Recomputed equals remembered, for nets


def opened(net: str, settings: dict[str, Any]) -> tuple[Objective, Params]:
    model = Conv4(4) if net == "conv4" else Mlp([3, 2], norm=True, activation="tanh")
    objective = Objective(model.build(SHAPES[net], 3), "cross_entropy")
    params = initial_params(objective.module, 0, torch.float64)
    learner, generator = Maml(RATE, 3, **settings), torch.Generator().manual_seed(0)
    return objective, learner.init(objective, params, generator)


SHAPES = {"conv4": (1, 8, 8), "mlp": (4,)}


def cohort(net: str, draws: int, examples: int = 6, clients: int = 2) -> Episode:
    """Noise in three classes."""
    generator = torch.Generator().manual_seed(1)

    def batch() -> Batch:
        shape = (clients, draws, examples, *SHAPES[net])
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        return Batch(x, torch.arange(3).repeat(examples // 3).expand(clients, draws, -1))

    return Episode(batch(), batch())


def both_ways(
    relative_error, engine: Engine, net: str, settings: dict[str, Any], progress: float
) -> None:
    objective, params = opened(net, settings)
    params = {name: w + 0.01 * (w == 0) for name, w in params.items()}  # adapters that do something
    learners = [Maml(RATE, 3, **settings, checkpoint=recompute) for recompute in (False, True)]
    remembered, recomputed = (
        engine.map(
            lambda params, episodes, learner=learner: learner.update(
                objective, params, episodes, progress
            ),
            params,
            cohort(net, learner.draws, clients=2 if isinstance(engine, Vmap) else 1),
        )
        for learner in learners
    )
    assert relative_error(recomputed.delta, remembered.delta) < 1e-12
    assert relative_error(recomputed.metrics, remembered.metrics) < 1e-12


CHOICES: list[Any] = ["all", "head", "body", "norm", "lora", "film", ["linear1.*", "head.*"]]
KINDS = ["none", "scalar", "per_layer", "per_layer_per_step", "per_parameter"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adapt", CHOICES, ids=str)
def test_checkpoint_changes_nothing(relative_error, adapt, kind) -> None:
    settings = dict(adapt=adapt, learn_rates=kind, multi_step_until=1.0)
    both_ways(relative_error, Loop(), "mlp", settings, 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_changes_nothing_in_first_order(relative_error, kind) -> None:
    settings = dict(order=1, learn_rates=kind, multi_step_until=1.0)
    both_ways(relative_error, Loop(), "mlp", settings, 0.5)


@pytest.mark.parametrize("net", ["conv4", "mlp"])
@pytest.mark.parametrize("engine", [Loop(), Vmap(2)], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        dict(order=1, learn_rates="per_layer_per_step"),
        dict(learn_rates="per_layer_per_step", multi_step_until=1.0),
        dict(learn_rates="per_parameter", adapt="body"),
        dict(adapt="lora", freeze=True, learn_rates="scalar"),
        dict(adapt="film", freeze=True, episodes=2),
        dict(adapt="norm", local_steps=2, local_lr=0.3, learn_rates="per_layer"),
        dict(first_order_until=0.3, multi_step_until=0.7),
    ],
    ids=str,
)
def test_checkpoint_changes_nothing_in_engines(relative_error, net, engine, settings) -> None:
    both_ways(relative_error, engine, net, settings, 0.5)


# What it is for


class LargestLiveSet(TorchDispatchMode):
    """Bytes of the tensors that operators have made and that are still held, at the most.

    Counts storages, by weak references: the same in every run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.live = 0
        self._seen = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and (storage := leaf.untyped_storage()) not in self._seen:
                self._seen[storage] = True
                self.live += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.bytes = max(self.bytes, self.live)
        return out

    def _free(self, size: int) -> None:
        self.live -= size


def growth(engine: Engine, net: str, settings: dict[str, Any]) -> float:
    """Bytes that an inner step adds, in copies of what adapts of a client."""
    objective, params = opened(net, settings)
    episodes = cohort(net, 1, examples=60)
    found = []
    for steps in (3, 5):
        learner = Maml(RATE, steps, **settings)
        with LargestLiveSet() as live:
            engine.map(lambda p, e, ll=learner: ll.update(objective, p, e), params, episodes)
        found.append(live.bytes)
    return (found[1] - found[0]) / 2 / sum(w.nbytes for w in params.values())


@pytest.mark.parametrize(
    ("net", "settings"),
    [("conv4", {}), ("mlp", {"multi_step_until": 1.0})],
    ids=str,
)
def test_remembered_steps_cost_activations_and_recomputed_ones_params(net, settings) -> None:
    """A remembered step keeps its whole graph, a recomputed one the params before it."""
    assert growth(Loop(), net, settings) > 30
    assert growth(Loop(), net, settings | {"checkpoint": True}) == pytest.approx(1, abs=0.05)


def test_recomputed_steps_cost_params_of_every_client_in_a_chunk() -> None:
    assert growth(Vmap(2), "mlp", {}) > 60
    assert growth(Vmap(2), "mlp", {"checkpoint": True}) == pytest.approx(2, abs=0.1)


def test_first_order_steps_cost_nothing() -> None:
    assert growth(Loop(), "conv4", {"order": 1}) == pytest.approx(0, abs=0.01)


# Operators that torch cannot differentiate twice


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.embed(x)[:, None]  # one attention head
        return self.head(F.scaled_dot_product_attention(z, z, z).mean(dim=(1, 2)))


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.EmbeddingBag(11, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(x)))


class Distances(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, 5), nn.Linear(15, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.pdist(self.embed(x)).expand(len(x), -1))


def points_or_words(net: nn.Module) -> Episode:
    generator, classes = torch.Generator().manual_seed(2), torch.tensor([0, 1, 2, 0, 1, 2])[None]

    def batch() -> Batch:
        if isinstance(net, Bag):
            return Batch(torch.randint(11, (1, 6, 4), generator=generator), classes)
        shape = (1, 6, 7, 4) if isinstance(net, Attention) else (1, 6, 4)
        return Batch(torch.randn(shape, generator=generator, dtype=torch.float64), classes)

    return Episode(batch(), batch())


HOLES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "attention": (Attention, "_scaled_dot_product_flash_attention_for_cpu_backward"),
    "embedding bag": (Bag, "_embedding_bag_backward"),
    "pdist": (Distances, "_pdist_backward"),
}


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("hole", HOLES)
def test_an_operator_without_second_derivative_is_named(hole: str, checkpoint: bool) -> None:
    net, operator = HOLES[hole]
    objective = Objective(net(), "cross_entropy")
    params = initial_params(objective.module, 0, torch.float64)
    learner = Maml(RATE, 2, checkpoint=checkpoint)
    with pytest.raises(ConfigError) as refused:
        learner.update(objective, params, points_or_words(objective.module))
    assert str(refused.value).startswith("learner.order: 2 needs second derivatives, and the model")
    assert operator in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("hole", HOLES)
def test_first_order_does_with_first_derivatives(relative_error, hole, checkpoint) -> None:
    """The gradient of the query loss at the adapted params, by plain autograd."""
    objective = Objective(HOLES[hole][0](), "cross_entropy")
    params = initial_params(objective.module, 0, torch.float64)
    episodes = points_or_words(objective.module)
    found = Maml(RATE, 2, order=1, checkpoint=checkpoint).update(objective, params, episodes)
    fast = {name: w.clone().requires_grad_() for name, w in params.items()}
    for batch in [episodes.draw(0).support] * 2:
        grads = torch.autograd.grad(objective(fast, batch), list(fast.values()))
        fast = {n: w - RATE * g for (n, w), g in zip(fast.items(), grads, strict=True)}
    grads = torch.autograd.grad(objective(fast, episodes.draw(0).query), list(fast.values()))
    assert relative_error(found.delta, dict(zip(fast, grads, strict=True))) < 1e-12


@pytest.mark.parametrize(("first_order_until", "refused"), [(0.5, False), (0.0, True)])
def test_annealing_meets_the_operator_only_when_order_2_begins(first_order_until, refused) -> None:
    objective = Objective(Bag(), "cross_entropy")
    params = initial_params(objective.module, 0, torch.float64)
    learner = Maml(RATE, 2, first_order_until=first_order_until)
    episodes = points_or_words(objective.module)
    if not refused:
        learner.update(objective, params, episodes, 0.49)
    with pytest.raises(ConfigError, match="_embedding_bag_backward"):
        learner.update(objective, params, episodes, 0.5)


def test_another_error_of_torch_is_not_taken_for_it() -> None:
    """Shapes that do not fit are nobody's second derivative."""
    objective, params = opened("mlp", {})
    x, y = torch.zeros(1, 6, 5, dtype=torch.float64), torch.zeros(1, 6, dtype=torch.long)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Maml(RATE, 1).update(objective, params, Episode(Batch(x, y), Batch(x, y)))


# Recurrent nets


class Recurrent(nn.Module):
    def __init__(self, cell: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.cell, self.head = cell(1, 2, batch_first=True), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


def sequences(cell: Callable[..., nn.Module], dtype: torch.dtype) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 2, 1, 4, 3, 1, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.tensor([0, 1, 1, 0]).expand(2, 1, -1)
    objective = Objective(Recurrent(cell), "cross_entropy")
    params = initial_params(objective.module, 0, torch.float64)
    params = {name: w.to(dtype) for name, w in params.items()}
    return objective, params, Episode(Batch(x[0], y), Batch(x[1], y))


def meta_gradient(engine: Engine, cell: Callable[..., nn.Module], dtype: torch.dtype) -> Params:
    objective, params, episodes = sequences(cell, dtype)
    learner = Maml(RATE, 2)
    return engine.map(lambda p, e: learner.update(objective, p, e), params, episodes).delta


def test_second_order_through_an_lstm_is_that_of_finite_differences(relative_error) -> None:
    """Four points: truncation of order h^4, rounding of order 1e-16 / h."""
    objective, params, episodes = sequences(nn.LSTM, torch.float64)
    episode, h = episodes.draw(0).draw(0), 1e-4

    def value(params: Params) -> Tensor:
        fast = {name: w.clone().requires_grad_() for name, w in params.items()}
        for _ in range(2):
            grads = torch.autograd.grad(objective(fast, episode.support), list(fast.values()))
            fast = {n: w - RATE * g for (n, w), g in zip(fast.items(), grads, strict=True)}
        return objective(fast, episode.query).detach()

    slopes = {name: torch.empty_like(w) for name, w in params.items()}
    for name, w in params.items():
        for index in range(w.numel()):
            ends = []
            for side in (h, -h, 2 * h, -2 * h):
                moved = w.clone()
                moved.view(-1)[index] += side
                ends.append(value(params | {name: moved}))
            slopes[name].view(-1)[index] = (8 * (ends[0] - ends[1]) - ends[2] + ends[3]) / (12 * h)
    found = {name: g[0] for name, g in meta_gradient(Loop(), nn.LSTM, torch.float64).items()}
    assert relative_error(found, slopes) < 1e-9


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_nets_in_float64_are_refused_by_vmap(cell) -> None:
    """torch has no batching rule there; an error, and not a wrong number. The loop has them."""
    with pytest.raises(RuntimeError, match="doesn't match the broadcast shape"):
        meta_gradient(Vmap(2), cell, torch.float64)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_an_lstm_in_float32_is_right_in_every_engine(relative_error) -> None:
    """Another kernel than in float64; to a rounding of 6e-8 some hundred times."""
    expected = meta_gradient(Loop(), nn.LSTM, torch.float64)
    for engine in (Loop(), Vmap(2)):
        found = meta_gradient(engine, nn.LSTM, torch.float32)
        found = {name: slope.double() for name, slope in found.items()}
        assert relative_error(found, expected) < 1e-5
