"""What one client's update costs: MFLOP of convolutions and matrix products, counted in the loop.

python -m benchmarks.flops configs/reproduce/omniglot_5w1s/*.yaml
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.utils.flop_counter import FlopCounterMode

from fedmeta.client_state import ClientStates
from fedmeta.cohort import Cohort
from fedmeta.config import load
from fedmeta.initial import first_params
from strategies.stock import STRATEGIES


def flops(config: Path) -> int:
    """Of one client in the middle of the run, when annealing is over."""
    experiment = load(config, ["engine.name=loop", "engine.device=cpu"], STRATEGIES)
    travels, _ = first_params(experiment)
    cohort = Cohort.open(experiment)
    with TemporaryDirectory() as folder, FlopCounterMode(display=False) as counter:
        cohort.train(travels, [0], experiment.rounds // 2 + 1, ClientStates(Path(folder)))
    return int(counter.get_total_flops())


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{Path(name).stem:20s} {flops(Path(name)) / 1e6:9,.0f}", flush=True)
