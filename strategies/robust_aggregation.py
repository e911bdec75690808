"""Robust rules as aggregations: the deltas as rows of numbers, and back."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from strategies.aggregation import Aggregation, Combined
from strategies.clipping import centred_clipping
from strategies.gathered import Gathered, Memory
from strategies.robust import Mix, Needs

Rule = Callable[[Tensor, Tensor], Tensor | Mix]


@dataclass(frozen=True)
class Robust(Aggregation):
    """A rule on the stack ``[clients, numbers]``, given weights ``[clients]``."""

    rule: Rule
    needs: Needs = Needs(1, "a step")  # noqa: RUF009 (a tuple)

    def check(self, clients: int) -> None:
        """Refuse fewer clients than the rule's attackers allow."""
        self.needs.check(clients)

    def __call__(self, gathered: Gathered, weights: Tensor, memory: Memory) -> Combined:
        """The rule's delta."""
        made = self.rule(gathered.stack, weights)
        if isinstance(made, Mix):
            return Combined(gathered.like(made.delta), made.weights, {})
        return Combined(gathered.like(made), None, {})


@dataclass(frozen=True)
class Centred(Aggregation):
    """Clipping around the delta of the round before, which a single round's attackers cannot choose."""

    radius: float
    iterations: int

    def __call__(self, gathered: Gathered, weights: Tensor, memory: Memory) -> Combined:
        """The delta, which is remembered."""
        stack = gathered.stack
        centre = memory.get("centre", stack.new_zeros(stack.shape[1]))
        delta, counted = centred_clipping(stack, centre, self.radius, self.iterations)
        return Combined(gathered.like(delta), counted, {"centre": delta})
