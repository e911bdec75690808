from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmeta.cohort import Cohort
from fedmeta.config import parse
from fedmeta.engines.loop import Loop
from fedmeta.engines.vmap import Vmap
from fedmeta.evaluation import curve
from fedmeta.learners.maml import Maml
from fedmeta.models import Model
from fedmeta.models.conv4 import Conv4
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.types import Batch, Episode, Metrics, Params


def test_curve_is_the_query_loss_after_every_step_averaged_over_episodes(points) -> None:
    """Loss ``(w - y)^2``: ``w_j = s + (1 - 2a)^j (w - s)``, the query scores ``(w_j - q)^2``."""
    rate, steps = 0.2, 4
    w, supports, queries = points(1, 1), points(3), points(3)
    ones = torch.ones(3, 1, 1, dtype=torch.float64)
    episodes = Episode(Batch(ones, supports[:, None, None]), Batch(ones, queries[:, None, None]))
    objective = Objective(nn.Linear(1, 1, bias=False), "mean_squared_error")
    found = curve(Maml(rate, 1), objective, {"weight": w}, episodes, steps)
    shrunk = (1 - 2 * rate) ** torch.arange(steps + 1).double()[:, None]
    expected = ((supports + shrunk * (w - supports) - queries) ** 2).mean(dim=1)
    assert found.keys() == {"loss"}
    torch.testing.assert_close(found["loss"], expected, atol=1e-12, rtol=0)


WAYS, SHAPE = 3, (1, 16, 16)
NORMED = {
    "mlp norm": Mlp([6], norm=True),
    "conv4 strided": Conv4(filters=4),
    "conv4 pooled": Conv4(filters=4, downsampling="pooled"),
}
MAML = Maml(inner_lr=0.3, inner_steps=1)


def judge(model: Model) -> tuple[Objective, Params]:
    objective = Objective(model.build(SHAPE, WAYS), "cross_entropy")
    return objective, initial_params(objective.module, 1, torch.float64)


def images(points: Callable[..., Tensor], *leading: int) -> Episode:
    """One image of each class to adapt on and two to be asked for."""
    classes = torch.arange(WAYS)
    return Episode(
        Batch(points(*leading, 3, *SHAPE), classes.expand(*leading, 3)),
        Batch(points(*leading, 6, *SHAPE), classes.repeat(2).expand(*leading, 6)),
    )


def one_by_one(objective: Objective, params: Params, episode: Episode) -> Metrics:
    """Every query example in a batch of the support and itself, for itself alone."""
    logits = torch.stack(
        [
            objective.predict(params, torch.cat([episode.support.x, episode.query.x[i : i + 1]]))[3]
            for i in range(6)
        ]
    )
    hits = [int(row.argmax()) == int(y) for row, y in zip(logits, episode.query.y, strict=True)]
    return {
        "loss": F.cross_entropy(logits, episode.query.y),
        "accuracy": torch.tensor(sum(hits) / 6, dtype=torch.float64),
    }


@pytest.mark.parametrize("model", NORMED)
def test_not_transductive_each_query_is_seen_with_the_support_alone(points, model: str) -> None:
    """After every step, averaged over two episodes; all queries at once score otherwise."""
    objective, params = judge(NORMED[model])
    episodes = images(points, 2)
    found = curve(MAML, objective, params, episodes, 3, transductive=False)
    by_hand = [
        [
            one_by_one(objective, adapted, episode)
            for adapted in MAML.trajectory(objective, params, episode.support, 3)
        ]
        for episode in (episodes.draw(0), episodes.draw(1))
    ]
    for name in ("loss", "accuracy"):
        expected = torch.stack([torch.stack([s[name] for s in path]) for path in by_hand]).mean(0)
        torch.testing.assert_close(found[name], expected, atol=1e-12, rtol=0)
    together = curve(MAML, objective, params, episodes, 3)
    assert not torch.isclose(found["loss"], together["loss"], rtol=1e-6).any()


def test_a_query_is_scored_the_same_whoever_is_asked_beside_it(points) -> None:
    """Not transductive: the six scores are those of six query sets of one."""
    objective, params = judge(NORMED["mlp norm"])
    episode = images(points, 1).draw(0)
    scores = objective.scores(params, episode.query, episode.support.x)
    alone = [
        objective.scores(
            params, Batch(*(part[i : i + 1] for part in episode.query)), episode.support.x
        )
        for i in range(6)
    ]
    for name, value in scores.items():
        torch.testing.assert_close(
            value, torch.stack([s[name] for s in alone]).mean(), atol=1e-12, rtol=0
        )


def test_without_batch_norm_the_two_ways_are_one(points) -> None:
    objective, params = judge(Mlp([6]))
    episodes = images(points, 2)
    one, other = (curve(MAML, objective, params, episodes, 3, way) for way in (True, False))
    for name, values in one.items():
        torch.testing.assert_close(other[name], values, atol=1e-12, rtol=0)


@pytest.mark.parametrize("model", NORMED)
def test_vmap_equals_loop_where_queries_are_seen_alone(points, relative_error, model: str) -> None:
    objective, params = judge(NORMED[model])
    episodes = images(points, 5, 1)

    def scores(params: Params, episodes: Episode) -> Metrics:
        return curve(MAML, objective, params, episodes, 2, transductive=False)

    found, expected = (engine.map(scores, params, episodes) for engine in (Vmap(2), Loop()))
    assert relative_error(found, expected) < 1e-12


@pytest.mark.parametrize("transductive", [True, False])
def test_the_setting_decides_how_a_node_scores(transductive: bool) -> None:
    """The curve of the client's own evaluation episodes, as large as ``data.evaluation`` says."""
    experiment = parse(
        f"""{{name: scored, seed: 3, rounds: 1, strategy: {{}}, cohort: {{clients: 1}},
        data: {{name: sinusoid, shots: 4, queries: 5, examples: 12, evaluation: {{shots: 6}},
                clients: {{train: 9, val: 5, test: 5}}}},
        model: {{name: mlp, hidden: [6], norm: true}},
        learner: {{name: maml, inner_lr: 0.05, inner_steps: 2}},
        engine: {{name: loop, device: cpu, dtype: float64}},
        evaluation: {{every: 1, steps: 2, clients: 5, transductive: {str(transductive).lower()}}}}}"""
    )
    block = Cohort.open(experiment)
    params = initial_params(block.objective.module, 0, torch.float64)
    found = block.evaluate(params, [10], 2, 3).curves["loss"][0]
    episodes = block.federation.draw(np.array([10]), 3, 3, "evaluate").draw(0)
    assert (episodes.support.y.shape[1], episodes.query.y.shape[1]) == (6, 5)
    ways = {
        way: curve(block.learner, block.objective, params, episodes, 2, way)["loss"]
        for way in (True, False)
    }
    assert torch.equal(found, ways[transductive])
    assert not torch.isclose(found, ways[not transductive], rtol=1e-6).any()
