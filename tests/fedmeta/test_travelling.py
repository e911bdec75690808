"""What travels and what stays on the nodes: cut in two the same way on every machine."""

import pytest
import torch

from fedmeta.config import Experiment, parse
from fedmeta.errors import ConfigError
from fedmeta.initial import first_params, objective
from fedmeta.objective import initial_params

HEAD = {"head.weight", "head.bias"}
BODY = {"linear0.weight", "linear0.bias"}
LORA = {"lora/linear0.weight/a", "lora/linear0.weight/b"}
ALL = HEAD | BODY
SPLITS = {
    "sgd, lr: 0.1, epochs: 1, batch_size: 4": (ALL, set()),
    "maml, inner_lr: 0.1, inner_steps: 1": (ALL, set()),
    "anil, inner_lr: 0.1, inner_steps: 1": (ALL, set()),
    "anil, inner_lr: 0.1, inner_steps: 1, freeze: true": (HEAD, BODY),
    "boil, inner_lr: 0.1, inner_steps: 1, freeze: true": (BODY, HEAD),
    "maml, inner_lr: 0.1, inner_steps: 1, adapt: lora": (ALL | LORA, set()),
    "maml, inner_lr: 0.1, inner_steps: 1, adapt: lora, freeze: true": (HEAD | LORA, BODY),
    "maml, inner_lr: 0.1, inner_steps: 1, adapt: head, freeze: true, learn_rates: scalar": (
        HEAD | {"rate/all"},
        BODY,
    ),
    "fedper, lr: 0.1, epochs: 1, batch_size: 4": (BODY, HEAD),
    "fedrep, lr: 0.1, epochs: 1, batch_size: 4": (BODY, HEAD),
    "fedbabu, lr: 0.1, epochs: 1, batch_size: 4": (BODY, HEAD),
    "ditto, lr: 0.1, epochs: 1, batch_size: 4, lam: 1": (ALL, {f"personal/{n}" for n in ALL}),
}


def experiment(learner: str, seed: int = 0, dtype: str = "float32") -> Experiment:
    return parse(f"""
        {{name: first, seed: {seed}, rounds: 1, model: {{name: mlp, hidden: [6]}}, strategy: {{}},
        data: {{name: sinusoid, shots: 4, queries: 5, examples: 12,
                clients: {{train: 9, val: 5, test: 5}}}},
        learner: {{name: {learner}}}, cohort: {{clients: 3}}, engine: {{dtype: {dtype}}},
        evaluation: {{every: 1, steps: 1, clients: 5}}}}""")


@pytest.mark.parametrize("learner", SPLITS)
def test_what_travels_and_what_stays(learner: str) -> None:
    """Together they are what the learner began with, each param in one part."""
    found = experiment(learner)
    travels, stays = first_params(found)
    assert (set(travels), set(stays)) == SPLITS[learner]
    model = initial_params(objective(found).module, 0, torch.float32)
    for name, values in model.items():
        assert (travels | stays)[name].shape == values.shape


@pytest.mark.parametrize("learner", SPLITS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_server_and_node_agree_to_the_bit(learner: str, dtype: str) -> None:
    """From the experiment as text, which is all that a node has of it, and without a global seed."""
    found = first_params(experiment(learner, 3, dtype))
    torch.manual_seed(99)
    again = first_params(parse(experiment(learner, 3, dtype).to_yaml()))
    for mine, theirs in zip(found, again, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(theirs[name], values) for name, values in mine.items())
        assert {values.dtype for values in mine.values()} <= {getattr(torch, dtype)}


@pytest.mark.parametrize("learner", [name for name, (_, stays) in SPLITS.items() if stays])
def test_another_seed_keeps_other_params_at_home(learner: str) -> None:
    one, other = (first_params(experiment(learner, seed))[1] for seed in (0, 1))
    assert one.keys() == other.keys()
    assert not all(torch.equal(other[name], values) for name, values in one.items())


def test_adapters_are_drawn_apart_from_the_model() -> None:
    """They change nothing that the model began with."""
    plain = first_params(experiment("maml, inner_lr: 0.1, inner_steps: 1"))[0]
    lora = first_params(experiment("maml, inner_lr: 0.1, inner_steps: 1, adapt: lora"))[0]
    assert all(torch.equal(lora[name], values) for name, values in plain.items())


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        ("maml, inner_lr: 0.1, inner_steps: 1, adapt: [nothing.*]", "'nothing.*' matches no param"),
        ("protonet", "protonet needs classes, the data has mean_squared_error"),
    ],
)
def test_a_learner_that_does_not_fit_the_model_is_refused(learner: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        first_params(experiment(learner))
    assert message in str(refusal.value)


GLYPHS = "{name: omniglot, federation: pooled, ways: 5, shots: 1, queries: 1, labels: LABELS, "
GLYPHS += "clients: {train: 9, val: 5, test: 5}}"


@pytest.mark.parametrize(
    ("learner", "kept"),
    [
        ("fedper, lr: 0.1, epochs: 1, batch_size: 4", True),
        ("fedrep, lr: 0.1, epochs: 1, batch_size: 4", True),
        ("ditto, lr: 0.1, epochs: 1, batch_size: 4, lam: 1", True),
        ("fedbabu, lr: 0.1, epochs: 1, batch_size: 4", False),
        ("protonet", False),
        ("maml, inner_lr: 0.1, inner_steps: 1", False),
    ],
)
def test_what_a_client_keeps_needs_classes_that_keep_their_numbers(
    learner: str, kept: bool
) -> None:
    """A head of yesterday would name today's classes at random."""
    text = experiment(learner).to_yaml()
    head, _, rest = text.partition("data:")
    _, _, rest = rest.partition("model:")
    anew, same = (
        parse(f"{head}data: {GLYPHS.replace('LABELS', how)}\nmodel:{rest}")
        for how in ("episode", "client")
    )
    first_params(same)
    if not kept:
        first_params(anew)
        return
    with pytest.raises(ConfigError, match=r"data\.labels must be client, got episode"):
        first_params(anew)
