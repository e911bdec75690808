"""Every engine gives the numbers of the loop, for every learner with every model."""

from itertools import cycle, product

import pytest
import torch
from torch import Tensor

from fedmeta.client_function import Own, Score, Train, TrainWeighted
from fedmeta.engines import ENGINES, Engine
from fedmeta.engines.channels_last import ChannelsLast
from fedmeta.engines.compiled import Compiled
from fedmeta.engines.loop import Loop
from fedmeta.engines.lowrank import Lowrank
from fedmeta.engines.planner import Planner
from fedmeta.engines.recorded import Recorded
from fedmeta.engines.vmap import Vmap
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
from fedmeta.models import MODELS, Model
from fedmeta.models.conv4 import Conv4
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.settings import EngineSettings
from fedmeta.types import Batch, Episode, Metrics, Params, Update

WAYS, SHAPE = 3, (1, 16, 16)
CLIENTS = 5
CHUNKS = [1, 2, 5, 8]  # alone, with a rest of one, exactly all, more than all

LEARNER_CASES: dict[str, Learner] = {
    "maml": Maml(inner_lr=0.1, inner_steps=2, order=2),
    "maml first order": Maml(inner_lr=0.1, inner_steps=2, order=1, episodes=2),
    "maml local steps": Maml(inner_lr=0.1, inner_steps=1, local_steps=2, local_lr=0.5),
    "reptile": Reptile(inner_lr=0.1, inner_steps=3, batch_size=6, episodes=2),
    "reptile adam": Reptile(inner_lr=1e-3, inner_steps=2, batch_size=9, inner_optimizer="adam"),
    "sgd": LocalSgd(lr=0.1, epochs=1, batch_size=6),
    "maml recomputed": Maml(inner_lr=0.1, inner_steps=2, checkpoint=True, multi_step_until=1.0),
    "maml lora": Maml(inner_lr=0.1, inner_steps=2, adapt="lora", rank=2, freeze=True),
    "maml film": Maml(inner_lr=0.1, inner_steps=2, adapt="film"),
    "maml one rate": Maml(inner_lr=0.1, inner_steps=2, learn_rates="scalar"),
    "fomaml": Fomaml(inner_lr=0.1, inner_steps=2),
    "anil": Anil(inner_lr=0.1, inner_steps=2),
    "boil": Boil(inner_lr=0.1, inner_steps=2),
    "meta-sgd": MetaSgd(inner_lr=0.1, inner_steps=2),
    "maml++": MamlPlusPlus(inner_lr=0.1, inner_steps=2),
    "imaml": Imaml(lam=2.0, inner_lr=0.1, inner_steps=2, cg_steps=3),
    "imaml newton": Imaml(lam=2.0, inner_lr=0.1, inner_steps=1, inner="hessian_free", cg_steps=2),
    "per-fedavg": PerFedAvg(alpha=0.1, beta=0.1, local_steps=2, batch_size=3),
    # a difference of gradients over a distance p has their rounding times 1 / p
    "per-fedavg hessian-free": PerFedAvg(0.1, 0.1, 1, 3, variant="hessian_free", probe=0.1),
    "per-fedavg first order": PerFedAvg(0.1, 0.1, 1, 3, variant="first_order"),
    "minibatch prox": MinibatchProx(lam=0.5, inner_lr=0.1, inner_steps=2, batch_size=6),
    "pfedme": PFedMe(lam=15, inner_lr=0.05, inner_steps=2, batch_size=6, local_steps=2),
    "protonet": ProtoNet(episodes=2),
    "fedprox": FedProx(lr=0.1, epochs=1, batch_size=6, mu=0.1),
    "local only": LocalOnly(lr=0.1, epochs=1, batch_size=6),
    "ditto": Ditto(lr=0.1, epochs=1, batch_size=6, lam=0.5),
    "fedper": FedPer(lr=0.1, epochs=1, batch_size=6),
    "fedrep": FedRep(lr=0.1, epochs=1, batch_size=6, head_epochs=1),
    "fedbabu": FedBabu(lr=0.1, epochs=1, batch_size=6),
}
MODEL_CASES: dict[str, Model] = {
    "conv4 strided": Conv4(filters=4, downsampling="strided"),
    "conv4 pooled": Conv4(filters=4, downsampling="pooled"),
    "mlp": Mlp([8, 8]),
    "mlp norm": Mlp([8, 8], norm=True),
}
ROUNDING = 1e-12


def test_every_learner_model_and_engine_is_here() -> None:
    assert {type(learner) for learner in LEARNER_CASES.values()} == set(LEARNERS.values())
    assert {type(model) for model in MODEL_CASES.values()} == set(MODELS.values())
    kinds = {Planner, Loop, Vmap, Recorded, Lowrank, ChannelsLast, Compiled}
    assert set(ENGINES.values()) == kinds


def test_engines_are_built_from_settings() -> None:
    settings = EngineSettings(chunk=3)
    assert ENGINES["loop"].of(settings) == Loop()
    assert ENGINES["vmap"].of(settings) == Vmap(3)
    assert ENGINES["recorded"].of(settings) == Recorded(3)
    for name in ("lowrank", "channels_last", "compiled"):
        assert ENGINES[name].of(settings).chunk == 3
    assert [ENGINES[name].of(EngineSettings()).chunk for name in ("vmap", "channels_last")] == [
        32,
        1,
    ]


def opened(model: Model, learner: Learner) -> tuple[Objective, Params]:
    objective = Objective(model.build(SHAPE, WAYS), "cross_entropy")
    params = initial_params(objective.module, 1, torch.float64)
    return objective, learner.init(objective, params, torch.Generator().manual_seed(1))


def cohort(clients: int, draws: int) -> Episode:
    """Images of noise: support ``[clients, draws, 3, 1, 16, 16]``, and twice as many to query."""
    generator = torch.Generator().manual_seed(2)

    def batch(shots: int) -> Batch:
        shape = (clients, draws, shots * WAYS, *SHAPE)
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        return Batch(x, torch.arange(WAYS).repeat(shots).expand(clients, draws, -1))

    return Episode(batch(1), batch(2))


def some(episodes: Episode, which: slice) -> Episode:
    return Episode(*(Batch(part.x[which], part.y[which]) for part in episodes))


def own(episodes: Episode) -> Own:
    """Episodes with shards of 1, 2, 3, ... examples to weight with."""
    sizes = torch.arange(1, len(episodes.support.y) + 1, dtype=torch.float64)
    return Own(episodes, {}, sizes)


def train(engine: Engine, learner: Learner, model: Model, episodes: Episode) -> Update:
    objective, params = opened(model, learner)
    return engine.map(Train(learner, objective, 1.0, calls=2), params, own(episodes))


def total(engine: Engine, learner: Learner, model: Model, episodes: Episode) -> Params:
    """The sum of the deltas, weighted by the sizes of the shards."""
    objective, params = opened(model, learner)
    function = TrainWeighted(Train(learner, objective, 1.0, calls=2), "examples")
    return engine.total(function, params, own(episodes))[0]


def evaluate(engine: Engine, learner: Learner, model: Model, episodes: Episode) -> Metrics:
    objective, params = opened(model, learner)
    score = Score(learner, objective, steps=2, transductive=True, took_part=False, calls=2)
    return engine.map(score, params, own(episodes))


def without_idle(delta: Params) -> Params:
    """Without the biases that batch norm takes out again.

    Their gradient is 0 but for rounding of some 1e-17, and Adam divides it by ``|g| + 1e-8``: what
    is left is noise of 1e-9 of a step and more.
    """
    idle = ("conv.bias", "linear0.bias", "linear1.bias")
    return {name: values for name, values in delta.items() if not name.endswith(idle)}


@pytest.mark.parametrize("model", MODEL_CASES)
@pytest.mark.parametrize("learner", LEARNER_CASES)
def test_vmap_equals_loop_in_training(relative_error, learner: str, model: str) -> None:
    parts = LEARNER_CASES[learner], MODEL_CASES[model]
    episodes = cohort(CLIENTS, parts[0].draws)
    expected, found = (train(engine, *parts, episodes) for engine in (Loop(), Vmap(2)))
    assert found.metrics["loss"].shape == (CLIENTS,)
    assert relative_error(found.metrics, expected.metrics) < ROUNDING
    if "adam" in learner and "norm" in "".join(expected.delta):
        expected, found = (
            result._replace(delta=without_idle(result.delta)) for result in (expected, found)
        )
    if learner == "local only":
        assert all(torch.equal(found.delta[name], w) for name, w in expected.delta.items())  # zeros
    else:
        assert relative_error(found.delta, expected.delta) < ROUNDING
    assert bool(found.state) == parts[0].keeps_state
    if found.state:
        assert relative_error(found.state, expected.state) < ROUNDING


@pytest.mark.parametrize("model", MODEL_CASES)
@pytest.mark.parametrize("learner", LEARNER_CASES)
def test_vmap_equals_loop_in_evaluation(relative_error, learner: str, model: str) -> None:
    parts = LEARNER_CASES[learner], MODEL_CASES[model]
    expected, found = (evaluate(engine, *parts, cohort(CLIENTS, 2)) for engine in (Loop(), Vmap(2)))
    assert found["loss"].shape == found["accuracy"].shape == (CLIENTS, 3)
    assert torch.equal(found["accuracy"], expected["accuracy"])
    assert relative_error(found, expected) < ROUNDING


@pytest.mark.parametrize("learner", sorted(LEARNER_CASES.keys() - {"local only"}))
def test_vmap_equals_loop_in_the_weighted_sum(relative_error, learner: str) -> None:
    """Of the sizes 1 to 5, in chunks of 1, 2 and 2; and both are the sum over what ``map`` gives."""
    parts = LEARNER_CASES[learner], MODEL_CASES["mlp"]
    episodes = cohort(CLIENTS, parts[0].draws)
    stack = train(Loop(), *parts, episodes).delta
    expected = {
        name: sum((c + 1) * values[c] for c in range(CLIENTS)) for name, values in stack.items()
    }
    for engine in (Loop(), Vmap(2)):
        assert relative_error(total(engine, *parts, episodes), expected) < ROUNDING


@pytest.mark.parametrize("chunk", CHUNKS)
def test_the_chunk_changes_nothing(relative_error, chunk: int) -> None:
    """Second order through affine batch norm: wrong by 1e-4 with the gradient outside of vmap."""
    parts = LEARNER_CASES["maml"], MODEL_CASES["mlp norm"]
    expected, found = (
        train(engine, *parts, cohort(CLIENTS, 1)) for engine in (Loop(), Vmap(chunk))
    )
    assert relative_error(found.delta, expected.delta) < ROUNDING


@pytest.mark.parametrize("engine", [Loop(), Vmap(2), Vmap(8)], ids=str)
def test_a_client_does_not_depend_on_who_else_is_in_the_block(
    relative_error, engine: Engine
) -> None:
    """To the bit in the loop; a vectorised call may add in another order."""
    parts = LEARNER_CASES["maml"], MODEL_CASES["conv4 strided"]
    episodes = cohort(CLIENTS, 1)
    together = train(engine, *parts, episodes).delta
    for client in range(CLIENTS):
        alone = train(engine, *parts, some(episodes, slice(client, client + 1))).delta
        mine = {name: values[client : client + 1] for name, values in together.items()}
        assert relative_error(mine, alone) <= (0 if engine == Loop() else ROUNDING)


@pytest.mark.parametrize("engine", [Loop(), Vmap(2)], ids=str)
def test_results_come_in_client_order(engine: Engine) -> None:
    """Client c of five, whose targets are all c, reports ``c + w`` with w = 10: 10 to 14."""

    def report(params: Params, episodes: Episode) -> dict[str, Tensor]:
        return {"sum": episodes.support.y.mean() + params["w"]}

    targets = torch.arange(5.0)[:, None, None].expand(5, 1, 3)
    batch = Batch(targets, targets)
    found = engine.map(report, {"w": torch.tensor(10.0)}, Episode(batch, batch))
    assert found["sum"].tolist() == [10, 11, 12, 13, 14]


@pytest.mark.parametrize("engine", [Loop(), Vmap(2)], ids=str)
def test_what_differs_from_client_to_client_may_be_any_nest(engine: Engine) -> None:
    """Episodes with a state, ``y + s`` and ``w s`` for states 10, 20, 30; or with none."""

    def report(params: Params, each: tuple[Batch, Params]) -> Update:
        batch, state = each
        own = state.get("s", torch.tensor(0.0))
        return Update({"w": params["w"] * own}, {"sum": batch.y.sum() + own}, state)

    batch = Batch(torch.zeros(3, 2), torch.arange(6.0).reshape(3, 2))
    states = {"s": torch.tensor([10.0, 20.0, 30.0])}
    found = engine.map(report, {"w": torch.tensor(2.0)}, (batch, states))
    assert found.delta["w"].tolist() == [20, 40, 60]
    assert found.metrics["sum"].tolist() == [11, 25, 39]
    assert found.state["s"].tolist() == [10, 20, 30]
    without = engine.map(report, {"w": torch.tensor(2.0)}, (batch, {}))
    assert without.metrics["sum"].tolist() == [1, 5, 9]
    assert without.state == {}


LONG = (
    "imaml",
    "imaml newton",
    "per-fedavg",
    "pfedme",
    "boil",
    "reptile",
    "maml film",
    "maml one rate",
)
"""Long programs through convolutions and norms; maml and meta-sgd take second derivatives there."""
MODEL_OF = dict(zip(LEARNER_CASES, cycle(MODEL_CASES), strict=False)) | dict.fromkeys(LONG, "mlp")
"""Each learner with one of the models: recording takes seconds."""
EVERY = [
    pytest.param(*case, marks=pytest.mark.slow)
    for case in product(LEARNER_CASES, MODEL_CASES, (Recorded, Lowrank, ChannelsLast))
]


def assert_recorded_equals_loop(
    relative_error, learner: str, model: str, kind: type[Recorded]
) -> None:
    parts = LEARNER_CASES[learner], MODEL_CASES[model]
    objective, params = opened(parts[1], parts[0])
    function = TrainWeighted(Train(parts[0], objective, 1.0, calls=2), "examples")
    data = own(cohort(3, parts[0].draws))
    expected, rest = Loop().total(function, params, data)
    engine = kind.of(EngineSettings(chunk=1 if kind is ChannelsLast else 3))
    delta, others = engine.total(function, params, data)
    assert len(engine.programs) == 1
    assert relative_error(others.metrics, rest.metrics) < ROUNDING
    if rest.state:
        assert relative_error(others.state, rest.state) < ROUNDING
    if learner == "local only":
        assert all(torch.equal(value, expected[name]) for name, value in delta.items())  # zeros
        return
    if "adam" in learner and ("norm" in model or "conv" in model):
        delta, expected = without_idle(delta), without_idle(expected)
    assert relative_error(delta, expected) < ROUNDING


@pytest.mark.parametrize("learner", LEARNER_CASES)
def test_recorded_programs_equal_the_loop(relative_error, learner: str) -> None:
    """With factors where the layers are linear, and channels last where there is pooling."""
    model = MODEL_OF[learner]
    kinds = {"conv4 strided": Recorded, "conv4 pooled": ChannelsLast}
    assert_recorded_equals_loop(relative_error, learner, model, kinds.get(model, Lowrank))


@pytest.mark.parametrize(("learner", "model", "kind"), EVERY)
def test_recorded_programs_equal_the_loop_in_every_case(
    relative_error, learner: str, model: str, kind: type[Recorded]
) -> None:
    assert_recorded_equals_loop(relative_error, learner, model, kind)


def test_a_program_serves_every_chunk_of_its_size_and_every_equal_function() -> None:
    """Five clients in chunks of 1, 2 and 2: two programs; and no third for an equal function."""
    parts = LEARNER_CASES["sgd"], MODEL_CASES["mlp"]
    objective, params = opened(parts[1], parts[0])
    engine, data = Recorded(2), own(cohort(CLIENTS, 1))
    for _ in range(2):
        engine.map(Train(parts[0], objective, 1.0, calls=2), params, data)
    assert len(engine.programs) == 2
    engine.map(Train(parts[0], objective, 0.5, calls=1), params, data)
    assert len(engine.programs) == 2  # what is computed once is not recorded
