"""Scores and their intervals. Pure functions, each stated by its definition."""

import math
import re
from collections.abc import Sequence

import numpy as np

Thing = dict[str, str]


def normalise(text: str) -> str:
    """Lower case, single spaces, no full stop at the end: what two equal short answers may differ in."""
    return re.sub(r"\s+", " ", text).rstrip(" .").strip().casefold()


def exact_match(answer: str, expected: str) -> float:
    return float(normalise(answer) == normalise(expected))


def slot_counts(predicted: Sequence[Thing], expected: Sequence[Thing]) -> tuple[int, int, int]:
    """(matched, predicted, expected) slots after the best one-to-one matching of things.

    A slot is one (thing, attribute, value); a matching pairs things so that as many slots as possible agree.
    """
    agree = [[len(p.items() & e.items()) for e in expected] for p in predicted]
    best = {0: 0}  # matched slots by the set (bit mask) of expected things already used
    for row in agree:
        extended = dict(best)
        for used, total in best.items():
            for j, gain in enumerate(row):
                if not used >> j & 1:
                    key = used | 1 << j
                    extended[key] = max(extended.get(key, 0), total + gain)
        best = extended
    return max(best.values()), sum(map(len, predicted)), sum(map(len, expected))


def f1(matched: float, predicted: float, expected: float) -> float:
    """Harmonic mean of precision and recall; 1 if there was nothing to find and nothing was said."""
    return 1.0 if predicted + expected == 0 else 2 * matched / (predicted + expected)


def wilson_interval(successes: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % score interval of a proportion (E. B. Wilson, 1927)."""
    if n == 0:
        return 0.0, 1.0
    p, shrink = successes / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrink
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(counts: Sequence[tuple[int, int, int]], draws: int = 1000) -> tuple[float, float]:
    """95 % percentile interval of the micro-F1 over items, from resampled items with a fixed seed."""
    table = np.array(counts, dtype=float).reshape(-1, 3)
    if len(table) == 0:
        return 0.0, 1.0
    picks = np.random.default_rng(0).integers(len(table), size=(draws, len(table)))
    totals = table[picks].sum(axis=1)  # [draws, 3]
    scores = [f1(*total) for total in totals]
    return float(np.quantile(scores, 0.025)), float(np.quantile(scores, 0.975))
