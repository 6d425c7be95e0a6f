"""Where two things stand to one another, and which is the larger.

Things are compared only where the margin is clear: places when their columns (or rows) differ, sizes when their size
words differ. Every thing is called by a color and shape that no other thing of the picture has.
"""

from itertools import combinations

import numpy as np

from data_pipelines.playground.base import Item, Split, Turn, phrase, pick
from data_pipelines.playground.scene import (
    SIZES,
    TRAIN_LOOKS,
    Look,
    Scene,
    Thing,
    distinct_turns,
    draw,
    random_look,
    random_scene,
    unique_things,
)

FAMILY = "relations"

# Relation: (attribute that decides, sign of first minus second when the relation holds, words in a sentence).
RELATIONS = {
    "left": ("column", -1, "to the left of"),
    "right": ("column", 1, "to the right of"),
    "above": ("row", -1, "above"),
    "below": ("row", 1, "below"),
    "larger": ("size", 1, "larger than"),
    "smaller": ("size", -1, "smaller than"),
}
MOST = {
    "left": "further left",
    "right": "further right",
    "above": "higher up",
    "below": "lower down",
    "larger": "larger",
    "smaller": "smaller",
}
STEPS = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}  # (row, column)

YES_NO = (
    "Is the {a} {relation} the {b}?",
    "Yes or no: is the {a} {relation} the {b}?",
    "Would you say that the {a} is {relation} the {b}?",
    "Is it true that the {a} is {relation} the {b}?",
    "In this picture, is the {a} {relation} the {b}?",
    "The {a} is {relation} the {b}, yes or no?",
    "Tell me, yes or no: the {a} is {relation} the {b}.",
    "Can one say that the {a} is {relation} the {b}?",
    "Is it so that the {a} is {relation} the {b}?",
    "The {a}: is it {relation} the {b}? Answer yes or no.",
    "The {a} is {relation} the {b}. Is that right?",
    "Check whether the {a} is {relation} the {b}: yes or no.",
    "Do you see the {a} {relation} the {b}, yes or no?",
    "The {a} is {relation} the {b}: true or not? Say yes or no.",
    "The {a} is {relation} the {b}. Yes or no?",
)
WHICH = (
    "Which is {most}, the {a} or the {b}?",
    "Which one is {most}: the {a} or the {b}?",
    "Of the {a} and the {b}, which is {most}?",
    "What is {most}, the {a} or the {b}?",
    "The {a} or the {b}: which is {most}?",
    "Between the {a} and the {b}, which one is {most}?",
    "Say which is {most}: the {a} or the {b}.",
    "Look at the {a} and the {b}. Which is {most}?",
    "Which of the two is {most}, the {a} or the {b}?",
    "The {a}, the {b}: name the one that is {most}.",
    "Which shape is {most}: is it the {a} or the {b}?",
    "Compare the {a} with the {b}: which is {most}?",
)
DIRECTLY = (
    "What is directly {relation} the {a}?",
    "Which shape is directly {relation} the {a}?",
    "Name what stands directly {relation} the {a}.",
    "What do you see directly {relation} the {a}?",
    "Tell me what is directly {relation} the {a}.",
    "Going directly {relation} the {a}, what comes first?",
    "Say what is directly {relation} the {a}.",
    "The shape directly {relation} the {a}: which is it?",
    "Directly {relation} the {a} there is a shape. Which?",
    "The {a} has a shape directly {relation} it. What is it?",
    "Something is directly {relation} the {a}. What?",
    "Name the shape that is directly {relation} the {a}.",
    "Directly {relation} the {a}: what is there?",
    "Starting at the {a}, what is the next shape directly {relation} it?",
    "Look directly {relation} the {a}: which shape is it?",
    "I see the {a}. What is directly {relation} it?",
    "Find the {a} and go directly {relation} it: which shape comes first?",
    "Which one is directly {relation} the {a}?",
)
# Asked in training only: what has to be looked up before two things can be compared.
BOTH = (
    "Where are the {a} and the {b}, and how large is each?",
    "Give the size and the place of the {a} and of the {b}.",
    "The {a} and the {b}: which size and place has each?",
    "Tell me the size and the place of the {a}, then of the {b}.",
    "How large is the {a} and where is it, and the {b}?",
    "Find the {a} and the {b}: give size and place.",
)
BOTH_SHARE = 0.25


def ask(scene: Scene, rng: np.random.Generator, split: Split) -> Turn:
    """A question about two things.

    Raises:
        ValueError: no two things of the scene can be compared (see ``askable``).
    """
    if split == "train" and rng.random() < BOTH_SHARE and (pairs := clear_pairs(scene)):
        return _both(*pick(rng, pairs)[1:], rng)
    roll = rng.random()
    if roll < 0.3 and (beside := neighbours(scene)):
        return _directly(beside, rng, split)
    if not (pairs := clear_pairs(scene)):
        raise ValueError("no two things of this scene can be compared")
    relation, a, b = pick(rng, pairs)
    a, b = (a, b) if rng.random() < 0.5 else (b, a)
    return _which(relation, a, b, rng, split) if 0.3 <= roll < 0.55 else _yes_no(relation, a, b, rng, split)


def askable(scene: Scene) -> bool:
    return bool(clear_pairs(scene))


def holds(relation: str, a: Thing, b: Thing) -> bool:
    """Whether ``a`` stands in ``relation`` to ``b``."""
    attribute, sign, _ = RELATIONS[relation]
    return (_rank(a, attribute) - _rank(b, attribute)) * sign > 0


def _rank(thing: Thing, attribute: str) -> int:
    return SIZES.index(thing.size) if attribute == "size" else getattr(thing, attribute)


def clear_pairs(scene: Scene) -> list[tuple[str, Thing, Thing]]:
    """Relations and the pairs of nameable things about which they can be asked."""
    return [
        (relation, a, b)
        for a, b in combinations(unique_things(scene), 2)
        for relation in RELATIONS
        if holds(relation, a, b) or holds(relation, b, a)
    ]


def neighbours(scene: Scene) -> list[tuple[str, Thing, Thing]]:
    """(relation, nameable thing, thing in the next cell in that direction)."""
    at = {(thing.row, thing.column): thing for thing in scene.things}
    return [
        (relation, a, at[a.row + dy, a.column + dx])
        for a in unique_things(scene)
        for relation, (dy, dx) in STEPS.items()
        if (a.row + dy, a.column + dx) in at
    ]


def _yes_no(relation: str, a: Thing, b: Thing, rng: np.random.Generator, split: Split) -> Turn:
    question = phrase(rng, YES_NO, split, a=a.name, b=b.name, relation=RELATIONS[relation][2])
    return Turn(question, "yes" if holds(relation, a, b) else "no", FAMILY)


def _which(relation: str, a: Thing, b: Thing, rng: np.random.Generator, split: Split) -> Turn:
    question = phrase(rng, WHICH, split, a=a.name, b=b.name, most=MOST[relation])
    return Turn(question, a.name if holds(relation, a, b) else b.name, FAMILY)


def _both(a: Thing, b: Thing, rng: np.random.Generator) -> Turn:
    question = phrase(rng, BOTH, "train", a=a.name, b=b.name)
    return Turn(question, f"{a.size}, {a.position}; {b.size}, {b.position}", FAMILY)


def _directly(beside: list[tuple[str, Thing, Thing]], rng: np.random.Generator, split: Split) -> Turn:
    relation, a, b = pick(rng, beside)
    return Turn(phrase(rng, DIRECTLY, split, a=a.name, relation=RELATIONS[relation][2]), b.name, FAMILY)


def unlike_looks(rng: np.random.Generator, split: Split, n: int) -> list[Look]:
    """``n`` looks, the first two of which occur once, so that some pair can always be named."""
    first = random_look(rng, split)
    second = _other_than(rng, split, {first})
    return [first, second, *(_other_than(rng, split, {first, second}) for _ in range(n - 2))]


def _other_than(rng: np.random.Generator, split: Split, taken: set[Look]) -> Look:
    look = random_look(rng, split)
    return look if look not in taken else pick(rng, [other for other in TRAIN_LOOKS if other not in taken])


def make(rng: np.random.Generator, split: Split, n_turns: int, max_side: int) -> Item:
    """Two to six things, two of which at least can be compared (their cells differ, so a row or a column does)."""
    scene_size = int(rng.integers(2, 7))
    scene = random_scene(rng, split, scene_size, max_side, unlike_looks(rng, split, scene_size))
    picture = draw(scene, rng)
    turns = distinct_turns(n_turns, lambda: ask(scene, rng, split))
    return Item([picture], "image", turns, scene.facts())
