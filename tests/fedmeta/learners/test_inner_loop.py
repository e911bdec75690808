import pytest
import torch

from fedmeta.learners.inner_loop import RmsAdam, Sgd, descend, every_example, last, minibatches
from fedmeta.types import Batch, Episode


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
