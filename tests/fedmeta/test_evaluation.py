import torch
from torch import nn

from fedmeta.evaluation import curve
from fedmeta.learners.maml import Maml
from fedmeta.objective import Objective
from fedmeta.types import Batch, Episode


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
