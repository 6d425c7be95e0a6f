"""How sure a score is: 95 % intervals from resampled items.

Items are rows (matched, predicted, expected) whose micro-F1 is the score. An item with a score s of its own is the row
(s, 1, 1): then the F1 of the sums is the mean of the scores, so that one rule serves every metric.
"""

import math
from collections.abc import Sequence

import numpy as np

from eval.metrics.slots import f1

DRAWS = 1000
Row = tuple[float, float, float]


def wilson_interval(successes: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % score interval of a proportion (E. B. Wilson, 1927)."""
    if n == 0:
        return 0.0, 1.0
    p, shrink = successes / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrink
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_scores(rows: Sequence[Row], draws: int = DRAWS, stream: int = 0) -> np.ndarray:
    """Scores [draws] of resampled items. The same ``stream`` and number of items pick the same items.

    So two runs over the same items are resampled together, and families, whose streams differ, apart.
    """
    table = np.array(rows, dtype=float).reshape(-1, 3)
    rng, n = np.random.default_rng(stream), len(table)
    totals = np.array([table[rng.integers(n, size=n)].sum(axis=0) for _ in range(draws)])  # [draws, 3]
    matched, slots = totals[:, 0], totals[:, 1] + totals[:, 2]
    return np.where(slots == 0, 1.0, 2 * matched / np.where(slots == 0, 1.0, slots))


def bootstrap_interval(rows: Sequence[Row], draws: int = DRAWS, stream: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the score, from resampled items with a fixed seed."""
    return middle(bootstrap_scores(rows, draws, stream)) if len(rows) else (0.0, 1.0)


def interval(rows: Sequence[Row], stream: int = 0) -> tuple[float, float]:
    """The bootstrap interval; Wilson's where every item is right or every one wrong.

    There a resample can say nothing but the same again, however few the items are.
    """
    score = f1(*map(sum, zip(*rows))) if rows else 0.0
    if score in (0.0, 1.0):
        return wilson_interval(score * len(rows), len(rows))
    return bootstrap_interval(rows, stream=stream)


def middle(values: np.ndarray) -> tuple[float, float]:
    """What holds the middle 95 % of ``values``."""
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
