"""The order of a mixture as arithmetic: which record of a source comes as its k-th, and whose turn it is when.

`Order` shuffles one source. Each epoch takes the stretches of its records in an order of its own, joins them, and
shuffles inside windows of ``buffer`` consecutive records, so that a reader never holds more than a window.

`Turns` interleaves sources. The k-th draw of source s stands at time (k + u) / w_s: w_s is the source's share, u a
random number in [0, 1) of that draw alone. Sorted by time, every stretch of the mixture holds the shares to within one
draw a source.

The deciding choice: both are pure functions of the seed and of a number, found without what came before. So any
position is resumed at once, and ranks and workers agree on the order without a word.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

JITTERS = 1024  # drawn together


class Order:
    """Which of n records a source gives as its k-th, epoch after epoch; each epoch gives each record once.

    Args:
        sizes: records of the stretches that are read in order; they sum to n.
        buffer: records shuffled together; 1 keeps the order in which they lie.
        seed: of both shuffles.
    """

    def __init__(self, sizes: Sequence[int], buffer: int, seed: Sequence[int]):
        self.sizes = np.array([size for size in sizes if size], dtype=np.int64)
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.n, self.buffer, self.seed = int(self.sizes.sum()), buffer, [*seed]
        self._epoch, self._stretches = -1, np.arange(0)

    def place(self, k: int) -> tuple[int, int, int]:
        """Epoch, window of the epoch and place in the window of draw ``k``."""
        epoch, place = divmod(k, self.n)
        return epoch, *divmod(place, self.buffer)

    def reading(self, epoch: int, window: int) -> np.ndarray:
        """The window's records in the order in which they are read, [<= buffer]."""
        self._turn_to(epoch)
        places = np.arange(window * self.buffer, min((window + 1) * self.buffer, self.n))
        nth = np.searchsorted(self._ends, places, side="right")
        stretch = self._stretches[nth]
        return self.starts[stretch] + places - (self._ends[nth] - self.sizes[stretch])

    def shuffle(self, epoch: int, window: int) -> np.ndarray:
        """Which place of `reading` comes at each place of the window."""
        size = min(self.buffer, self.n - window * self.buffer)
        return np.random.default_rng([*self.seed, 1, epoch, window]).permutation(size)

    def _turn_to(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        count = len(self.sizes)
        shuffled = np.random.default_rng([*self.seed, 0, epoch]).permutation(count)
        self._epoch, self._stretches = epoch, shuffled if self.buffer > 1 else np.arange(count)
        self._ends = np.cumsum(self.sizes[self._stretches])


class Turns:
    """The merged order of endless sources, or of one pass through finite ones.

    Args:
        shares: of the sources, any positive numbers.
        seed: of the jitter.
        limits: draws of each source in all, None if endless.
    """

    def __init__(self, shares: Sequence[float], seed: int, limits: Sequence[int | None]):
        total = sum(shares)
        self.shares, self.seed = [share / total for share in shares], seed
        self.limits = [math.inf if limit is None else limit for limit in limits]

    def before(self, time: float) -> list[int]:
        """How many draws of each source stand before ``time``; their sum is near ``time``."""
        return [self._count(source, time) for source in range(len(self.shares))]

    def between(self, start: float, end: float) -> list[tuple[int, int]]:
        """(source, k) of every draw from ``start`` to before ``end``, in their order."""
        drawn = [
            (time, source, k)
            for source, (first, last) in enumerate(zip(self.before(start), self.before(end)))
            for k in range(first, last)
            for time in [self._time(source, k)]
        ]
        return [(source, k) for _, source, k in sorted(drawn)]

    def _count(self, source: int, time: float) -> int:
        k = max(0, math.floor(time * self.shares[source]) - 1)  # all before it stand before ``time``
        while k < self.limits[source] and self._time(source, k) < time:
            k += 1
        return int(min(k, self.limits[source]))

    def _time(self, source: int, k: int) -> float:
        return (k + _jitters(self.seed, source, k // JITTERS)[k % JITTERS]) / self.shares[source]


@lru_cache(maxsize=512)
def _jitters(seed: int, source: int, block: int) -> tuple[float, ...]:
    return tuple(np.random.default_rng([seed, source, block]).random(JITTERS).tolist())
