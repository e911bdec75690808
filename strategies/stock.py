"""All strategies by name, each a composition of weighting, aggregation and server optimiser."""

from strategies.flower_named import FLOWER
from strategies.means import MEANS
from strategies.robust_named import ROBUST
from strategies.rules import StrategySettings

STRATEGIES: dict[str, type[StrategySettings]] = MEANS | ROBUST | FLOWER
