"""Rows as a comparison leaves them, made up: what a report says of them can be computed by hand."""

from typing import Any

import numpy as np

Row = dict[str, Any]
Floats = np.ndarray[Any, np.dtype[np.float64]]


def row(
    name: str,
    seed: int,
    skill: float = 0.8,
    *,
    clients: int = 20,
    measure: str = "accuracy",
    problem: str = "omniglot",
    rounds: int = 400,
    attack: str = "none",
) -> Row:
    """A finished cell whose clients score about ``skill`` in the end, and 0.3 less before adaptation."""
    rng = np.random.default_rng([seed, clients])  # the clients are those of the seed, hard or easy
    hardness = rng.normal(0, 0.08, clients)
    luck = np.random.default_rng([seed, *name.encode()])
    before = _scores(skill - 0.3 + hardness + luck.normal(0, 0.04, clients), measure)
    after = _scores(skill + hardness + luck.normal(0, 0.02, clients), measure)
    every = np.linspace(0, rounds, 11).astype(int).tolist()
    learned = [skill - (skill - 0.2) * 2 ** (-6 * r / rounds) for r in every]
    curves = [_scores(level + hardness, measure) for level in learned]
    steps = [before + (after - before) * (1 - 0.25**k) / (1 - 0.25**4) for k in range(5)]
    return {
        "name": name,
        "labels": {"strategy": name.split(" ")[0], "attack": attack},
        "seed": seed,
        "config": f"configs/{name}.yaml",
        "setting": f"setting of {name}",
        "fingerprint": f"{name} {seed}",
        "problem": f"hash of {problem}",
        "problem_name": problem,
        "rounds": rounds,
        "clients": 32,
        "selected_round": every[-2],
        "minutes": 3.0 + skill,
        "test": {
            "clients": clients,
            "before": _summary(before, measure),
            "after": _summary(after, measure),
            "curve": [_summary(scores, measure) for scores in steps],
        },
        "test_clients": {
            "client": list(range(100, 100 + clients)),
            "before": _each(before, measure),
            "after": _each(after, measure),
        },
        "val": [
            {
                "round": r,
                "minutes": r * (2.9 + skill) / rounds,
                "bytes": r * 32 * 230_000,
                "simulated_seconds": r * 1.5,
                "client_updates": r * 32,
                "gradients": r * 64,
            }
            | _summary(scores, measure)
            for r, scores in zip(every, curves, strict=True)
        ],
        "cost": {
            "rounds": rounds,
            "bytes": rounds * 32 * 230_000,
            "client_updates": rounds * 32,
            "gradients": rounds * 64,
            "minutes": 2.9 + skill,
            "simulated_seconds": rounds * 1.5,
        },
        "sections": {
            "name": name,
            "seed": seed,
            "rounds": rounds,
            "strategy": {"name": name.split(" ")[0], "lr": round(skill / 100, 4)},
            "learner": {"name": "maml", "inner_lr": 0.4},
            "attack": {"name": attack},
        },
    }


def failed(name: str, seed: int, reason: str, problem: str = "omniglot") -> Row:
    """A cell without results."""
    return {
        "name": name,
        "labels": {"strategy": name},
        "seed": seed,
        "config": f"configs/{name}.yaml",
        "setting": f"setting of {name}",
        "problem": f"hash of {problem}",
        "problem_name": problem,
        "failed": reason,
    }


def _scores(quality: Floats, measure: str) -> Floats:
    """Accuracies of 75 answers each, or losses that fall as the quality rises."""
    if measure == "accuracy":
        return np.round(np.clip(quality, 0.0, 1.0) * 75) / 75
    return np.exp(-4 * quality)


def _each(scores: Floats, measure: str) -> dict[str, list[float]]:
    loss = scores if measure == "loss" else 1.5 - scores
    return ({measure: scores.tolist()} if measure == "accuracy" else {}) | {"loss": loss.tolist()}


def _summary(scores: Floats, measure: str) -> Row:
    found: Row = {}
    for name, values in _each(scores, measure).items():
        found[name] = float(np.mean(values))
        found[f"{name}_ci95"] = float(2.0 * np.std(values, ddof=1) / len(values) ** 0.5)
    if measure == "accuracy":
        worst = np.sort(scores)[: -(-len(scores) // 10)]
        found["accuracy_worst_decile"] = float(worst.mean())
    return found
