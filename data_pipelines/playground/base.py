"""What every playground family is made of: splits, items, turns and their random streams.

An item is a pure function of (family, split, seed, index), of how many turns are asked for and of the largest side:
the same numbers give the same pixels and words on every machine. Train and held-out splits differ in seeds, fonts,
phrasings and in some attribute combinations, so a held-out score measures more than memory of the training pictures.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import Image

Split = Literal["train", "heldout"]


@dataclass(frozen=True)
class Turn:
    """A question about an item's media and its exact answer. ``family`` says how the answer is scored."""

    question: str
    answer: str
    family: str


@dataclass(frozen=True)
class Item:
    """Media and the turns asked about them; the first turn is the one that evaluation asks.

    Attributes:
        media: PIL RGB images; for a video its frames in order.
        kind: ``image`` (one or several separate pictures) or ``video`` (one clip).
        turns: one or more.
        meta: the scene behind the pixels, for metrics.
    """

    media: list[Image.Image]
    kind: Literal["image", "video"]
    turns: list[Turn]
    meta: dict[str, Any] = field(default_factory=dict)


# A family: (rng, split, n_turns, max_side) -> Item with exactly n_turns turns and media no larger than max_side.
Family = Callable[[np.random.Generator, Split, int, int], Item]


def stream(family: str, split: Split, seed: int, index: int) -> np.random.Generator:
    """The random stream of one item, independent of every other item's."""
    return np.random.default_rng([zlib.crc32(family.encode()), zlib.crc32(split.encode()), seed, index])


def pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    """One of ``options``, uniformly; keeps its Python type (``rng.choice`` would not)."""
    return options[int(rng.integers(len(options)))]


def phrase(
    rng: np.random.Generator, phrasings: Sequence[str], split: Split, training_only: Sequence[str] = (), **slots: Any
) -> str:
    """A question worded from ``phrasings``: every third one is kept for the held-out split, the rest train.

    ``training_only`` are further wordings to learn from: what "to pay" means nobody knows who was never told.
    """
    held = [p for i, p in enumerate(phrasings) if i % 3 == 2]
    kept = [*(p for i, p in enumerate(phrasings) if i % 3 != 2), *training_only]
    return pick(rng, held if split == "heldout" else kept).format(**slots)
