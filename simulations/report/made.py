"""How the numbers of a report came about."""

from collections.abc import Sequence
from importlib.metadata import version

from simulations.report.contenders import Problem


def title(problems: Sequence[Problem]) -> str:
    """Of the report."""
    return f"Comparison: {'; '.join(problem.name for problem in problems)}"


def made(problems: Sequence[Problem]) -> list[tuple[str, str]]:
    """Terms and their explanations, the same for all problems."""
    rows = [row for problem in problems for row in problem.rows]
    seeds = sorted({row["seed"] for row in rows})
    configs = sorted({str(row["config"]) for row in rows if row.get("config")})
    packages = ("fedmeta", "flwr", "torch", "scipy")
    said = [
        ("Scores", "Every client was scored on its query examples, which it never adapts on, and no "
         "validation or test client takes part in training. Test scores are of the params of the round "
         "that evaluation.select chooses."),
        ("Intervals", "95 %. Over seeds: Student's t of the seeds' means, for trainings with other seeds. "
         "Over clients: for other clients of the same trainings."),
        ("Seeds", ", ".join(map(str, seeds))),
        ("Configs", ", ".join(configs)),
        ("Versions", ", ".join(f"{package} {version(package)}" for package in packages)
         + " (when the report was written)"),
    ]  # fmt: skip
    return [(term, words) for term, words in said if words]
