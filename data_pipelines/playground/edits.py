"""Ten edits of a short list: what is asked for, and one right result.

The deciding choice: an edit says all that its result depends on. Where a place or an order is free to choose (shuffle,
and the three ``random`` edits) the result is drawn evenly from all right ones, so that a model which learns from them
learns the whole choice; whether another result is right is for `eval.metrics.lists` to say.
"""

from collections.abc import Sequence

import numpy as np

from data_pipelines.playground.base import Split
from data_pipelines.playground.words import word

EDITS = (
    "copy",
    "reverse",
    "sort",
    "shuffle",
    "insert_index",
    "insert_random",
    "remove_index",
    "remove_random",
    "replace_index",
    "replace_random",
)
LENGTHS = (3, 6)
PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")


def different_words(rng: np.random.Generator, split: Split, count: int) -> list[str]:
    """``count`` words, no two alike."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[word(rng, split)] = None
    return list(found)


def edited(rng: np.random.Generator, task: str, given: Sequence[str], new: str) -> tuple[list[str], dict[str, str]]:
    """(a right result, what fills the question's slots: ``place`` and ``new``, where the edit has them).

    Args:
        given: different words, at least two.
        new: a word that is not among them.
    """
    if task in _WHOLE:
        return _WHOLE[task](rng, list(given)), {}
    kind, choice = task.split("_")
    at = int(rng.integers(len(given) + (kind == "insert")))
    slots = {} if kind == "remove" else {"new": new}
    return _CHANGES[kind](list(given), at, new), slots | ({"place": PLACES[at]} if choice == "index" else {})


def _shuffled(rng: np.random.Generator, given: list[str]) -> list[str]:
    """Another order, each with equal chance."""
    while True:
        order = [given[i] for i in rng.permutation(len(given)).tolist()]
        if order != given:
            return order


_WHOLE = {
    "copy": lambda rng, given: given,
    "reverse": lambda rng, given: given[::-1],
    "sort": lambda rng, given: sorted(given),
    "shuffle": _shuffled,
}
_CHANGES = {
    "insert": lambda given, at, new: [*given[:at], new, *given[at:]],
    "remove": lambda given, at, new: [*given[:at], *given[at + 1 :]],
    "replace": lambda given, at, new: [*given[:at], new, *given[at + 1 :]],
}
