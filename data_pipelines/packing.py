"""Packs of samples that fill a token budget, best fit first.

Inside a window, samples go from the longest to the shortest, each into the pack with the least room that still holds
it. A sample is never cut, so no picture's or clip's tokens are either: one that is longer than the budget is dropped,
counted and listed, or is an error, as the caller says.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from typing import Generic, Literal, TypeVar

import numpy as np

from data_pipelines.errors import DataError

T = TypeVar("T")
OverLength = Literal["drop", "error"]


class Packs(Generic[T]):
    """Lists of samples whose costs sum to at most ``budget``; iterate once, then read what it came to.

    Args:
        samples: any iterable, finite or not; never read further than the window being given out.
        cost: tokens of a sample, its media's included; called once a sample.
        budget: the most tokens of a pack.
        window: how many samples are packed together.
        seed: of the order of a window's packs.
        over_length: what becomes of a sample above the budget.
        name: what an over-long sample is called in ``dropped`` and in the error.

    Attributes:
        packs: how many were given out.
        tokens: how many they hold.
        dropped: (name, cost) of every sample that was longer than the budget.

    Raises:
        ValueError: for a window or a budget below 1.
        DataError: while iterating, for a sample above the budget under the policy ``error``.
    """

    def __init__(
        self,
        samples: Iterable[T],
        cost: Callable[[T], int],
        budget: int,
        window: int,
        seed: int,
        over_length: OverLength = "error",
        name: Callable[[T], str] = str,
    ):
        if window < 1 or budget < 1:
            raise ValueError(f"window and budget must be at least 1, not {window} and {budget}")
        self.samples, self.cost, self.budget, self.window, self.seed = samples, cost, budget, window, seed
        self.over_length, self.name = over_length, name
        self.packs = self.tokens = 0
        self.dropped: list[tuple[str, int]] = []

    @property
    def fill(self) -> float:
        """Share of the packs' budgets that samples take; 1 if there are no packs."""
        return self.tokens / (self.packs * self.budget) if self.packs else 1.0

    def __iter__(self) -> Iterator[list[T]]:
        source = iter(self.samples)
        for number in count():
            held = list(islice(source, self.window))
            if not held:
                return
            priced = [(self.cost(sample), sample) for sample in held]
            fitting = [(price, sample) for price, sample in priced if self._fits(price, sample)]
            packs = best_fit([price for price, _ in fitting], self.budget)
            for i in np.random.default_rng([self.seed, number]).permutation(len(packs)):
                self.packs += 1
                self.tokens += sum(fitting[n][0] for n in packs[i])
                yield [fitting[n][1] for n in packs[i]]

    def _fits(self, price: int, sample: T) -> bool:
        if price <= self.budget:
            return True
        if self.over_length == "error":
            raise DataError(f"sample {self.name(sample)}: {price} tokens, more than the budget of {self.budget}")
        self.dropped.append((self.name(sample), price))
        return False


def best_fit(costs: list[int], budget: int) -> list[list[int]]:
    """Which of ``costs`` (none above ``budget``) share a pack: longest first, each where the least room remains."""
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, pack), ascending
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        at = bisect_left(room, (costs[i], -1))
        left, pack = room.pop(at) if at < len(room) else (budget, len(packs))
        if pack == len(packs):
            packs.append([])
        packs[pack].append(i)
        insort(room, (left - costs[i], pack))
    return packs
