"""Packs of samples that fill a token budget, best fit first.

Inside a window, samples go from the longest to the shortest, each into the pack with the least room that still holds
it. A sample is never cut, so no picture's or clip's tokens are either: one that is longer than the budget is dropped,
counted and listed, or is an error, or is a pack of its own, as the caller says.

Training joins a window's packs to batches (`packed_batches`): a pack is a row there.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from typing import Generic, Literal, TypeVar

import numpy as np

from data_pipelines.batching import length_buckets
from data_pipelines.errors import DataError

T = TypeVar("T")
OverLength = Literal["drop", "error", "alone"]


class Packs(Generic[T]):
    """Lists of samples whose costs sum to at most ``budget``; iterate once, then read what it came to.

    Only under the policy ``alone`` a pack can be above the budget: it holds one sample then.

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
        places: how many their budgets hold; of an over-long sample alone, as many as it has tokens.
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
        self.packs = self.tokens = self.places = 0
        self.dropped: list[tuple[str, int]] = []

    @property
    def fill(self) -> float:
        """Share of the packs' budgets that samples take; 1 if there are no packs."""
        return self.tokens / self.places if self.packs else 1.0

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
                tokens = sum(fitting[n][0] for n in packs[i])
                self.packs, self.tokens = self.packs + 1, self.tokens + tokens
                self.places += max(tokens, self.budget)
                yield [fitting[n][1] for n in packs[i]]

    def _fits(self, price: int, sample: T) -> bool:
        if price <= self.budget or self.over_length == "alone":
            return True
        if self.over_length == "error":
            raise DataError(f"sample {self.name(sample)}: {price} tokens, more than the budget of {self.budget}")
        self.dropped.append((self.name(sample), price))
        return False


def best_fit(costs: list[int], budget: int) -> list[list[int]]:
    """Which of ``costs`` share a pack: longest first, each where the least room remains; above ``budget`` alone."""
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, pack), ascending
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        at = bisect_left(room, (costs[i], -1))  # nothing has room for what is above the budget, nor room beside it
        left, pack = room.pop(at) if at < len(room) else (budget, len(packs))
        if pack == len(packs):
            packs.append([])
        packs[pack].append(i)
        insort(room, (left - costs[i], pack))
    return packs


def packed_batches(
    samples: Iterable[T], cost: Callable[[T], int], capacity: int, budget: int, seed: int
) -> Iterator[list[list[T]]]:
    """One window's samples as batches of packs, with ``max(pack) * len(batch) <= budget``; each comes exactly once.

    A batch holds ``budget // capacity`` packs, more where they are short. A window's last pack and last batch may be
    far from full, all others hardly. Batches are a function of the samples and the seed.

    Args:
        samples: the window.
        cost: tokens of a sample, its media's included.
        capacity: the most tokens of a pack; a longer sample is a pack of its own. Above ``budget`` it is ``budget``.
        budget: the most tokens of a batch, its packs padded to the longest; a longer sample is a batch of its own.
        seed: of the order of the batches.
    """
    held = list(samples)
    window = max(1, len(held))
    packs = Packs(held, cost, min(capacity, budget), window, seed, over_length="alone")
    return length_buckets(packs, lambda pack: sum(map(cost, pack)), budget, window, seed)
