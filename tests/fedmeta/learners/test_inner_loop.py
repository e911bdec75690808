import pytest
import torch
from torch.func import grad

from fedmeta.learners.inner_loop import (
    RmsAdam,
    Sgd,
    beside,
    descend,
    difference,
    every_example,
    last,
    local_steps,
    minibatches,
    norm,
)
from fedmeta.types import Batch, Episode, Metrics, Params


def numbered(total: int) -> Batch:
    return Batch(torch.arange(total)[:, None], torch.arange(total) + 100)


@pytest.mark.parametrize(
    ("total", "size", "count", "expected"),
    [
        (6, 2, 3, [[0, 1], [2, 3], [4, 5]]),
        (6, 2, 5, [[0, 1], [2, 3], [4, 5], [0, 1], [2, 3]]),
        (7, 3, 4, [[0, 1, 2], [3, 4, 5], [6, 0, 1], [2, 3, 4]]),
        (3, 5, 2, [[0, 1, 2], [0, 1, 2]]),
        (3, 1, 1, [[0]]),
        (3, 1, 0, []),
    ],
    ids=["even", "wraps", "runs on across the end", "larger than all", "one", "none"],
)
def test_minibatches(total: int, size: int, count: int, expected: list[list[int]]) -> None:
    batches = list(minibatches(numbered(total), size, count))
    assert [batch.x[:, 0].tolist() for batch in batches] == expected
    assert [(batch.y - 100).tolist() for batch in batches] == expected


def test_every_example_is_support_then_query() -> None:
    joined = every_example(
        Episode(Batch(*(t[:2] for t in numbered(5))), Batch(*(t[2:] for t in numbered(5))))
    )
    assert torch.equal(joined.x, numbered(5).x)
    assert torch.equal(joined.y, numbered(5).y)


def test_descend_follows_the_closed_form(quadratic, points) -> None:
    """``w_j - c = (1-a)^j (w - c)``, ``w_0`` included."""
    w, centre, rate = points(4), points(4), 0.3
    batches = [quadratic.batch(centre)] * 5
    walked = [p["w"] for p in descend(quadratic, {"w": w}, batches, Sgd(rate))]
    expected = [centre + (1 - rate) ** j * (w - centre) for j in range(6)]
    torch.testing.assert_close(torch.stack(walked), torch.stack(expected), atol=1e-12, rtol=0)


def test_descend_without_batches_stays(quadratic, points) -> None:
    params = {"w": points(4)}
    assert last(descend(quadratic, params, [], Sgd(0.1))) is params


def test_rms_adam_is_torch_adam_without_first_moment(quadratic, points, hessians) -> None:
    """Eight steps on eight bowls; the first is centred at the start, and its gradient is 0."""
    w, lr = points(6), 0.05
    bowls = [quadratic.batch(w, hessians(6))]
    bowls += [quadratic.batch(points(6), hessians(6)) for _ in range(7)]
    theirs = w.clone().requires_grad_()
    adam = torch.optim.Adam([theirs], lr=lr, betas=(0.0, 0.999), eps=1e-8)
    walked = descend(quadratic, {"w": w}, bowls, RmsAdam(lr))
    assert torch.equal(next(walked)["w"], w)
    for bowl, params in zip(bowls, walked, strict=True):
        adam.zero_grad()
        quadratic({"w": theirs}, bowl).backward()
        adam.step()
        torch.testing.assert_close(params["w"], theirs.detach(), atol=1e-12, rtol=0)
    assert (theirs.detach() - w).abs().min() > lr  # every coordinate has walked, by about lr a step


def test_first_step_of_rms_adam_is_the_sign_of_the_gradient(quadratic, points) -> None:
    """Bias correction makes ``v = g^2`` at first, so the step is ``lr g / (|g| + eps)``."""
    w, centre = points(6), points(6)
    stepped = last(descend(quadratic, {"w": w}, [quadratic.batch(centre)], RmsAdam(0.05)))
    gap = w - centre
    expected = w - 0.05 * gap / (gap.abs() + 1e-8)
    torch.testing.assert_close(stepped["w"], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("optimizer", [Sgd(0.1), RmsAdam(0.1)], ids=lambda o: type(o).__name__)
def test_first_order_walks_the_same_way_and_sees_through_as_if_it_were_constant(
    quadratic, points, hessians, optimizer
) -> None:
    """``w_k = w - constants``: the outer gradient of ``sum w_k`` is all ones; second order it is not."""
    w, bowl = points(4), quadratic.batch(points(4), hessians(4))

    def end(params: Params, order: int) -> torch.Tensor:
        return last(descend(quadratic, params, [bowl] * 3, optimizer, order))["w"]

    torch.testing.assert_close(end({"w": w}, 1), end({"w": w}, 2), atol=0, rtol=0)
    first, second = (grad(lambda p, o=o: end(p, o).sum())({"w": w})["w"] for o in (1, 2))
    torch.testing.assert_close(first, torch.ones_like(w), atol=1e-15, rtol=0)
    assert (second - 1).abs().max() > 0.01


def test_beside_holds_the_others(points) -> None:
    fixed, moving = {"a": points(2), "b": points(2)}, {"b": points(2)}

    def loss(params: Params, batch: Batch) -> torch.Tensor:
        return (params["a"] * params["b"]).sum()

    partial = beside(fixed, loss)
    assert partial(moving, numbered(1)) == fixed["a"] @ moving["b"]
    assert torch.equal(grad(partial)(moving, numbered(1))["b"], fixed["a"])


@pytest.mark.parametrize(("draws", "steps"), [(6, 1), (6, 2), (6, 3), (6, 6), (1, 1)])
def test_local_steps_share_the_episodes_in_order(draws: int, steps: int) -> None:
    """Equal shares, each draw once; a direction that is the mean of its draws' targets."""
    targets = torch.arange(draws, dtype=torch.float64)[:, None]
    episodes = Episode(Batch(targets, targets), Batch(targets, targets))
    seen = []

    def direction(params: Params, episode: Episode) -> tuple[Params, Metrics]:
        seen.append((params["w"].item(), episode.support.y.item()))
        return {"w": episode.query.y[0]}, {"loss": episode.query.y[0]}

    start = torch.tensor(100.0, dtype=torch.float64)
    update = local_steps(direction, {"w": start}, episodes, steps, 0.5)
    assert [target for _, target in seen] == targets[:, 0].tolist()
    share, at = draws // steps, 100.0
    for step in range(steps):
        assert {w for w, _ in seen[step * share : (step + 1) * share]} == {at}
        at -= 0.5 * sum(range(step * share, (step + 1) * share)) / share
    assert (start - update.delta["w"]).item() == at
    assert update.metrics["loss"] == targets.mean()


def test_a_delta_is_before_minus_after_of_what_is_after() -> None:
    before = {"a": torch.tensor(3.0), "b": torch.tensor(5.0)}
    assert difference(before, {"b": torch.tensor(1.0)}) == {"b": torch.tensor(4.0)}


def test_the_norm_goes_over_all_tensors() -> None:
    """3-4-12-13, twice Pythagoras."""
    assert norm({"a": torch.tensor([[3.0], [4.0]]), "b": torch.tensor(-12.0)}) == 13
