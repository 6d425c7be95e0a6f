"""A small text task with known answers, for `benchmarks.adapt`: repeat a list, count, go on along a row.

Every answer follows from its question alone, and is a list with commas: long enough for several blocks, regular enough
for a small model. A question belongs to training or to the held-out part by a hash of its words, so that none is in
both however many are drawn.
"""

import json
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np

Split = Literal["train", "heldout"]
HELDOUT = 4  # one question in as many is held out
TRIES = 1000  # draws for a question that is of the split, and new

WORDS = (
    "river apple stone lamp green window paper cloud bread chair garden horse silver table mountain bottle music "
    "winter letter orange bridge pencil forest candle market island doctor mirror kitchen rabbit summer button camera "
    "engine flower ladder pocket school tiger water"
).split()
ROWS = {
    "days": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "months": "January February March April May June July August September October November December".split(),
    "letters": list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
}

Question = tuple[str, str]  # and its answer


def repeat(rng: np.random.Generator) -> Question:
    words = ", ".join(rng.choice(WORDS, int(rng.integers(3, 7)), replace=False))
    return f"Repeat this list: {words}", words


def count(rng: np.random.Generator) -> Question:
    first = int(rng.integers(1, 80))
    last = first + int(rng.integers(3, 8))
    return f"Count from {first} to {last}.", ", ".join(map(str, range(first, last + 1)))


def follow(rng: np.random.Generator) -> Question:
    name = rng.choice(list(ROWS))
    row, number = ROWS[name], int(rng.integers(3, 7))
    at = int(rng.integers(len(row)))
    found = [row[(at + step) % len(row)] for step in range(1, number + 1)]
    return f"Name the {number} {name} that follow {row[at]}.", ", ".join(found)


FAMILIES: dict[str, Callable[[np.random.Generator], Question]] = {"repeat": repeat, "count": count, "follow": follow}


def split_of(question: str) -> Split:
    return "train" if blake2b(question.encode(), digest_size=4).digest()[0] % HELDOUT else "heldout"


def questions(split: Split, amount: int, seed: int) -> Iterator[Question]:
    """``amount`` questions with their answers, of the families in turn; held-out ones all differ.

    Raises:
        ValueError: there are not so many held-out questions.
    """
    rng, seen = np.random.default_rng([seed, split == "train"]), set()
    for number in range(amount):
        family = list(FAMILIES.values())[number % len(FAMILIES)]
        for _ in range(TRIES):
            asked, answer = family(rng)
            if split_of(asked) == split and (split == "train" or asked not in seen):
                break
        else:
            raise ValueError(f"there are no {amount} different held-out questions, only about {number}")
        seen.add(asked)
        yield asked, answer


def write(path: Path, split: Split, amount: int, seed: int) -> None:
    """Questions as chats, a JSON line each: what ``data.sources`` reads."""
    with path.open("w", encoding="utf-8") as file:
        for asked, answer in questions(split, amount, seed):
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}) + "\n")
