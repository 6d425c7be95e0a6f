"""Structured answers: F1 over slots of best-matched things, and whether a text is JSON.

A slot is one (thing, attribute, value). Things have no names, so predicted and expected ones are first paired one to
one such that as many slots as possible agree; that is an assignment problem, solved exactly.
"""

import json
from collections.abc import Sequence

import numpy as np

Thing = dict[str, str]


def slot_counts(predicted: Sequence[Thing], expected: Sequence[Thing]) -> tuple[int, int, int]:
    """(matched, predicted, expected) slots after the best one-to-one matching of things."""
    agree = agreement(predicted, expected)
    matched = sum(int(agree[i, j]) for i, j in matching(agree))
    return matched, sum(map(len, predicted)), sum(map(len, expected))


def agreement(predicted: Sequence[Thing], expected: Sequence[Thing]) -> np.ndarray:
    """Slots that each pair of things shares, [P, E]."""
    shared = [[len(p.items() & e.items()) for e in expected] for p in predicted]
    return np.array(shared, dtype=float).reshape(len(predicted), len(expected))


def f1(matched: float, predicted: float, expected: float) -> float:
    """Harmonic mean of precision and recall; 1 if there was nothing to find and nothing was said."""
    return 1.0 if predicted + expected == 0 else 2 * matched / (predicted + expected)


def slot_f1(answer: str, expected: str) -> float:
    """F1 of the slots of two JSON texts, each an object or an array of objects; 0 if the answer is neither.

    Raises:
        ValueError: if ``expected`` is neither.
    """
    predicted, truth = things_in(answer), things_in(expected)
    if truth is None:
        raise ValueError("slot-F1 needs a JSON object, or an array of them, as the expected answer")
    return 0.0 if predicted is None else f1(*slot_counts(predicted, truth))


def things_in(text: str) -> list[Thing] | None:
    """The objects of a JSON text, values as text (inner ones as JSON with sorted keys); None if it holds none."""
    try:
        data = json.loads(text)
        data = [data] if isinstance(data, dict) else data
        if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
            return None
        return [{key: _value(value) for key, value in entry.items()} for entry in data]
    except (ValueError, RecursionError):
        return None


def json_validity(answer: str) -> float:
    """Whether the whole answer is one JSON value in the sense of RFC 8259, which has no NaN and no Infinity."""
    try:
        json.loads(answer, parse_constant=_refuse, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


def matching(gain: np.ndarray) -> list[tuple[int, int]]:
    """One-to-one pairs (row, column) of the largest total gain, as many as there can be.

    The Hungarian method with potentials (Kuhn, 1955; Munkres, 1957): rows are taken one after the other, each by a
    shortest augmenting path. O(n² m) for an [n, m] matrix with n <= m.
    """
    n, m = gain.shape
    if n > m:
        return sorted((i, j) for j, i in matching(gain.T))
    u, v = np.zeros(n + 1), np.zeros(m + 1)
    owner = np.zeros(m + 1, dtype=int)  # the row, from 1, that holds a column; 0 is no row, and column 0 none
    for row in range(1, n + 1):
        _augment(-gain, u, v, owner, row)
    return sorted((int(owner[j]) - 1, j - 1) for j in range(1, m + 1) if owner[j])


def _augment(cost: np.ndarray, u: np.ndarray, v: np.ndarray, owner: np.ndarray, row: int) -> None:
    """Give ``row`` a column, moving earlier rows along the cheapest alternating path."""
    slack, before = np.full(len(v), np.inf), np.zeros(len(v), dtype=int)
    used = np.zeros(len(v), dtype=bool)
    owner[0] = row
    column = 0
    while owner[column]:
        used[column] = True
        reduced = np.concatenate([[np.inf], cost[owner[column] - 1] - u[owner[column]] - v[1:]])
        nearer = ~used & (reduced < slack)
        slack[nearer], before[nearer] = reduced[nearer], column
        following = int(np.argmin(np.where(used, np.inf, slack)))
        step = slack[following]
        u[owner[used]] += step
        v[used] -= step
        slack[~used] -= step
        column = following
    while column:
        owner[column] = owner[before[column]]
        column = before[column]
    owner[0] = 0


def _value(value) -> str:
    return json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else str(value)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
