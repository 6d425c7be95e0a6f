"""Batches of samples that cost about the same.

Rows of a batch are padded to its longest, so samples are sorted by cost inside a window before they are cut into
batches. The window bounds both the memory held and how far a sample moves from its place in the stream, and it lets
the source be infinite.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def length_buckets(
    samples: Iterable[T], cost: Callable[[T], int], budget: int, window: int, seed: int
) -> Iterator[list[T]]:
    """Batches with ``max(cost) * len(batch) <= budget``; every sample comes out exactly once.

    Each ``window`` consecutive samples are sorted by cost, cut, and their batches given in an order drawn from
    (seed, number of the window), so the same input gives the same batches. A sample above the budget is a batch of
    its own.

    Args:
        samples: any iterable, finite or not; never read further than the window being given out.
        cost: what a padded row of the sample costs, e.g. its number of tokens; called once per sample.
        budget: the largest padded cost of a batch, in the units of ``cost``.
        window: how many samples are sorted together.
        seed: of the order of a window's batches.

    Raises:
        ValueError: for a window below 1.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1, not {window}")
    source = iter(samples)
    for number in count():
        held = list(islice(source, window))
        if not held:
            return
        batches = _cut(held, cost, budget)
        for i in np.random.default_rng([seed, number]).permutation(len(batches)):
            yield batches[i]


def _cut(samples: list[T], cost: Callable[[T], int], budget: int) -> list[list[T]]:
    """Batches of ascending cost, each as long as the budget allows."""
    ranked = sorted(((cost(sample), i) for i, sample in enumerate(samples)))  # equal costs keep their order
    batches: list[list[T]] = []
    for price, i in ranked:
        if batches and price * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(samples[i])
        else:
            batches.append([samples[i]])
    return batches
