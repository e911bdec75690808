"""Plain local SGD: what federated averaging runs on a client."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from fedmeta.learners.checks import at_least_one, positive
from fedmeta.learners.inner_loop import Sgd, descend, every_example, last, minibatches
from fedmeta.types import Batch, Episode, Loss, Params, Update


@dataclass(frozen=True)
class LocalSgd:
    """Local SGD (McMahan et al., AISTATS 2017, Algorithm 1, ClientUpdate).

    With the strategy ``fedavg`` this is federated averaging; evaluated after steps on the support
    of an unseen client it is FedAvg with fine-tuning (Chen et al. 2018 call it FedAvg(Meta)).
    """

    lr: float
    epochs: int
    """Passes over the round's episode, support and query together; the last batch is filled up."""
    batch_size: int

    def __post_init__(self) -> None:
        positive(self, "lr")
        at_least_one(self, "epochs", "batch_size")

    @property
    def draws(self) -> int:
        """Episodes that one update consumes."""
        return 1

    def trajectory(
        self, loss: Loss, params: Params, support: Batch, steps: int
    ) -> Iterator[Params]:
        """Fine-tuning: the params after 0, 1, ..., ``steps`` minibatch steps on the support."""
        return descend(loss, params, minibatches(support, self.batch_size, steps), Sgd(self.lr))

    def update(self, loss: Loss, params: Params, episodes: Episode) -> Update:
        """The client's displacement after its epochs, and its loss after them."""
        examples = every_example(episodes.draw(0))
        steps = ceil(self.epochs * len(examples.y) / min(self.batch_size, len(examples.y)))
        trained = last(self.trajectory(loss, params, examples, steps))
        delta = {name: w - trained[name] for name, w in params.items()}
        return Update(delta, {"loss": loss(trained, examples)})
