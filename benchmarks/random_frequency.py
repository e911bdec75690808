"""The one-step table of Meta-SGD (Li et al. 2017, Table 1) from finished runs.

python -m benchmarks.random_frequency RUNS, the folder ``runs`` of
``fedmeta compare configs/reproduce/sinusoid/frequency_*.yaml``.
"""

import sys
from pathlib import Path

from simulations.run import evaluate_again

SHOTS = (5, 10, 20)
LEARNERS = ("maml", "meta-sgd")


def row(runs: Path, learner: str, trained: int) -> str:
    """One run, scored with 5, 10 and 20 support points."""
    folder = runs / f"sinusoid-frequency-{learner}-{trained}-0"
    if not folder.exists():
        sys.exit(f"{folder}: is not there; remove its row beside it to train it again")
    scores = [
        evaluate_again(folder, [f"data.evaluation.shots={shots}"])["test"]["after"]
        for shots in SHOTS
    ]
    cells = [f"{score['loss']:.2f} ± {score['loss_ci95']:.2f}" for score in scores]
    return f"| {learner} | {trained} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    print("| learner | meta-trained on | 5-shot | 10-shot | 20-shot |\n|---|--:|--:|--:|--:|")
    for trained in SHOTS:
        for learner in LEARNERS:
            print(row(Path(sys.argv[1]), learner, trained), flush=True)


if __name__ == "__main__":
    main()
