"""FedPer, FedRep and FedBABU: what moves, what stays to the bit, and what travels."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedmeta.errors import ConfigError
from fedmeta.learners.heads import FedBabu, FedPer, FedRep
from fedmeta.learners.sgd import LocalSgd
from fedmeta.models.mlp import Mlp
from fedmeta.objective import Objective, initial_params
from fedmeta.types import Batch, Episode, Params

RATE = 0.3
BODY, HEAD = "body.weight", "head.weight"
LEARNERS: dict[str, FedPer] = {
    "fedper": FedPer(RATE, epochs=3, batch_size=4),
    "fedrep": FedRep(RATE, epochs=3, batch_size=4, head_epochs=2),
    "fedbabu": FedBabu(RATE, epochs=3, batch_size=4),
}


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


# A quadratic whose Hessian couples body and head


class Coupled:
    """The oracle's quadratic in the three numbers of a body and the two of a head."""

    def __init__(self, quadratic) -> None:
        self.quadratic = quadratic

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        return self.quadratic({"w": joined(params)}, batch)


@pytest.fixture
def coupled(quadratic) -> Coupled:
    return Coupled(quadratic)


def joined(params: Params) -> Tensor:
    return torch.cat([params[BODY], params[HEAD]])


def parts(w: Tensor) -> Params:
    return {HEAD: w[3:], BODY: w[:3]}  # the order of names is of no account


def shrink(curve: Tensor, part: str, steps: int) -> Tensor:
    """``(I - a M A)^k`` with M the projection on the numbers that move."""
    moving = torch.tensor(
        {"all": [1.0] * 5, "body": [1, 1, 1, 0, 0], "head": [0, 0, 0, 1, 1]}[part]
    )
    one = torch.eye(5).to(curve)
    return torch.linalg.matrix_power(one - RATE * torch.diag(moving.to(curve)) @ curve, steps)


def jacobian(learner: str, curve: Tensor) -> Tensor:
    if learner == "fedrep":  # the head first
        return shrink(curve, "body", 3) @ shrink(curve, "head", 2)
    return shrink(curve, {"fedper": "all", "fedbabu": "body"}[learner], 3)


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_round_on_the_coupled_quadratic(coupled, points, hessians, learner: str) -> None:
    """``w' - c = J (w - c)``, with the projections B and H on the numbers of body and head.

    FedPer ``J = (I - a A)^E``, FedBABU ``(I - a B A)^E``, FedRep ``(I - a B A)^E (I - a H A)^K``.
    """
    w, centre, curve = points(5), points(5), hessians(5)
    bowl = coupled.quadratic.batch(centre, curve, 2)
    episode = coupled.quadratic.stack([Episode(bowl, bowl)])
    found = LEARNERS[learner].update(coupled, parts(w), episode)
    trained = centre + jacobian(learner, curve) @ (w - centre)
    assert found.delta.keys() == {BODY}
    close(found.delta[BODY], (w - trained)[:3])
    gap = trained - centre
    close(found.metrics["loss"], gap @ curve @ gap / 2)
    if learner == "fedbabu":
        assert found.state == {}
    else:
        assert found.state.keys() == {HEAD}
        close(found.state[HEAD], trained[3:])


def test_fedrep_is_not_body_then_head(points, hessians) -> None:
    """What the test above rests on: the phases do not commute, by far."""
    curve, gap = hessians(5), points(5)
    swapped = shrink(curve, "head", 2) @ shrink(curve, "body", 3)
    assert ((swapped - jacobian("fedrep", curve)) @ gap).norm() > 0.01 * gap.norm()


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_client_goes_on_with_its_own_head(coupled, points, hessians, learner: str) -> None:
    """Two rounds: the server's body in the second is another, the head is that of the first."""
    w, new_body, centre, curve = points(5), points(3), points(5), hessians(5)
    bowl = coupled.quadratic.batch(centre, curve, 2)
    episode = coupled.quadratic.stack([Episode(bowl, bowl)])
    first = LEARNERS[learner].update(coupled, parts(w), episode)
    received = parts(w) | {BODY: new_body}
    second = LEARNERS[learner].update(coupled, received | first.state, episode)

    j = jacobian(learner, curve)
    head = (centre + j @ (w - centre))[3:]
    start = torch.cat([new_body, head])
    trained = centre + j @ (start - centre)
    close(second.delta[BODY], new_body - trained[:3])
    if learner == "fedbabu":
        close(head, w[3:])
    else:
        close(second.state[HEAD], trained[3:])
        assert (head - w[3:]).norm() > 0.01


@pytest.mark.parametrize("part", ["all", "head", "body"])
@pytest.mark.parametrize("learner", LEARNERS)
def test_fine_tuning_moves_its_part(coupled, points, hessians, learner: str, part: str) -> None:
    """``w_j - c = (I - a M A)^j (w - c)`` with M on the part; the rest stays to the bit."""
    w, centre, curve = points(5), points(5), hessians(5)
    bowl = coupled.quadratic.batch(centre, curve)
    tuned = replace(LEARNERS[learner], finetune=part)
    walk = list(tuned.trajectory(coupled, parts(w), bowl, 3))
    assert len(walk) == 4
    for step, params in enumerate(walk):
        assert params.keys() == {BODY, HEAD}
        close(joined(params), centre + shrink(curve, part, step) @ (w - centre))
        assert part != "head" or torch.equal(params[BODY], w[:3])
        assert part != "body" or torch.equal(params[HEAD], w[3:])


def test_fedrep_fine_tunes_the_head_and_the_others_all() -> None:
    assert {name: learner.finetune for name, learner in LEARNERS.items()} == {
        "fedper": "all",
        "fedrep": "head",
        "fedbabu": "all",
    }


@pytest.mark.parametrize("size", [1, 2, 9])
def test_fine_tuning_walks_minibatches_of_the_support(coupled, points, size: int) -> None:
    """Three isotropic examples; a step pulls to the mean centre of its batch."""
    w, centres = points(5), points(3, 5)
    support = Batch(torch.eye(5).double().expand(3, -1, -1), centres)
    walked, full = w, min(size, 3)
    for step, params in enumerate(FedPer(RATE, 1, size).trajectory(coupled, parts(w), support, 4)):
        close(joined(params), walked)
        centre = centres[[i % 3 for i in range(step * full, (step + 1) * full)]].mean(dim=0)
        walked = walked - RATE * (walked - centre)


# A net, with 2 + 5 examples in batches of 4: the last batch of an epoch is filled up


def classifier(points) -> tuple[Objective, Params, Episode]:
    objective = Objective(Mlp([4], norm=True, activation="tanh").build((2,), 3), "cross_entropy")
    x, y = points(1, 7, 2), torch.tensor([[0, 1, 2, 2, 1, 0, 0]])
    episode = Episode(Batch(x[:, :2], y[:, :2]), Batch(x[:, 2:], y[:, 2:]))
    return objective, initial_params(objective.module, 0, torch.float64), episode


def head_of(params: Params) -> Params:
    return {name: w for name, w in params.items() if name.startswith("head.")}


def body_of(params: Params) -> Params:
    return {name: w for name, w in params.items() if not name.startswith("head.")}


def phase(net: nn.Module, part: str, epochs: int, x: Tensor, y: Tensor) -> None:
    """Epochs of torch.optim.SGD on all params, on the head's or on the others."""
    chosen = [
        w
        for name, w in net.named_parameters()
        if part == "all" or name.startswith("head.") == (part == "head")
    ]
    steps = torch.optim.SGD(chosen, lr=RATE)
    for step in range(-(-7 * epochs // 4)):
        batch = [i % 7 for i in range(4 * step, 4 * step + 4)]
        steps.zero_grad()
        nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
        steps.step()


PHASES = {
    "fedper": [("all", 3)],
    "fedrep": [("head", 2), ("body", 3)],
    "fedbabu": [("body", 3)],
}


@pytest.mark.parametrize("learner", LEARNERS)
def test_equals_phases_of_a_torch_optimiser(points, relative_error, learner: str) -> None:
    objective, params, episode = classifier(points)
    found = LEARNERS[learner].update(objective, params, episode)
    net = objective.module
    net.load_state_dict({name: w.clone() for name, w in params.items()}, assign=True)
    net.requires_grad_()
    x, y = (torch.cat([s[0], q[0]]) for s, q in zip(*episode, strict=True))
    for part, epochs in PHASES[learner]:
        phase(net, part, epochs, x, y)
    trained = {name: w.detach() for name, w in net.named_parameters()}
    moved = {name: params[name] - w for name, w in body_of(trained).items()}
    assert relative_error(found.delta, moved) < 1e-12
    if learner != "fedbabu":
        assert relative_error(found.state, head_of(trained)) < 1e-12
    close(found.metrics["loss"], nn.functional.cross_entropy(net(x), y).detach())


@pytest.mark.parametrize("learner", LEARNERS)
def test_only_the_body_travels_and_only_the_head_is_kept(points, learner: str) -> None:
    objective, params, episode = classifier(points)
    one = LEARNERS[learner]
    assert one.init(objective, params, torch.Generator()) is params
    assert one.private(params) == {"head.weight", "head.bias"}
    found = one.update(objective, params, episode)
    assert found.delta.keys() == body_of(params).keys()
    assert found.state.keys() == (head_of(params).keys() if one.keeps_state else set())
    assert one.keeps_state == (learner != "fedbabu")


def test_fedbabu_trains_and_leaves_the_head_to_the_bit(points) -> None:
    objective, params, episode = classifier(points)
    examples = Batch(episode.query.x[0], episode.query.y[0])
    trained = LEARNERS["fedbabu"].fit(objective, params, examples)
    assert all(torch.equal(trained[name], w) for name, w in head_of(params).items())
    assert not any(torch.equal(trained[n], params[n]) for n in ("linear0.weight", "norm0.weight"))


@pytest.mark.parametrize(("part", "other"), [("head", body_of), ("body", head_of)])
def test_a_phase_of_fedrep_leaves_the_other_part_to_the_bit(points, part, other) -> None:
    objective, params, episode = classifier(points)
    examples = Batch(episode.query.x[0], episode.query.y[0])
    trained = LEARNERS["fedrep"].train_part(part, objective, params, examples, 2)
    assert trained.keys() == params.keys()
    assert all(torch.equal(trained[name], w) for name, w in other(params).items())
    assert not torch.equal(trained["head.weight"], params["head.weight"]) or part == "body"
    assert not torch.equal(trained["linear0.weight"], params["linear0.weight"]) or part == "head"


def test_epochs_of_the_phases_are_their_own(points) -> None:
    """More epochs on the body change nothing of the head, which is done by then."""
    objective, params, episode = classifier(points)
    short, long = (
        replace(LEARNERS["fedrep"], epochs=epochs).update(objective, params, episode)
        for epochs in (1, 4)
    )
    assert all(torch.equal(short.state[name], long.state[name]) for name in head_of(params))
    assert not torch.equal(short.delta["linear0.weight"], long.delta["linear0.weight"])


def test_fedper_is_federated_averaging_but_for_where_the_head_goes(points) -> None:
    """Sent along with the body, the kept head would complete the delta of local SGD, to the bit."""
    objective, params, episode = classifier(points)
    found = LEARNERS["fedper"].update(objective, params, episode)
    plain = LocalSgd(RATE, 3, 4).update(objective, params, episode)
    sent = found.delta | {name: params[name] - w for name, w in found.state.items()}
    assert sent.keys() == plain.delta.keys()
    assert all(torch.equal(sent[name], values) for name, values in plain.delta.items())
    assert torch.equal(found.metrics["loss"], plain.metrics["loss"])


@pytest.mark.parametrize("learner", LEARNERS)
def test_update_is_pure(points, learner: str) -> None:
    objective, params, episode = classifier(points)
    before = {name: w.clone() for name, w in params.items()}
    first, again = (LEARNERS[learner].update(objective, params, episode) for _ in range(2))
    assert all(torch.equal(first.delta[name], again.delta[name]) for name in first.delta)
    assert all(torch.equal(params[name], w) for name, w in before.items())


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_model_without_a_head_is_refused(points, quadratic, learner: str) -> None:
    with pytest.raises(ConfigError, match=r"needs a head, params named head\.\*; the model has w$"):
        LEARNERS[learner].init(quadratic, {"w": points(4)}, torch.Generator())


@pytest.mark.parametrize(
    ("learner", "key", "value"),
    [
        *((name, key, 0) for name in LEARNERS for key in ("epochs", "batch_size")),
        *((name, "lr", float("nan")) for name in LEARNERS),
        ("fedrep", "head_epochs", 0),
    ],
)
def test_settings_out_of_range(learner: str, key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^learner\.{key} must .*, got {value}$"):
        replace(LEARNERS[learner], **{key: value})
