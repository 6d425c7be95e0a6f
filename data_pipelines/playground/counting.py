"""How many shapes, red shapes, circles, red circles: 0 to 9.

A random picture holds one red circle or none, so ``make`` draws the answer first, evenly from 0..9, and builds the
picture to it; on a given scene ``ask`` draws evenly among the answers that scene has to offer.
"""

from collections import defaultdict

import numpy as np

from data_pipelines.playground.base import Item, Split, Turn, phrase, pick
from data_pipelines.playground.scene import (
    COLORS,
    LOOKS,
    MAX_THINGS,
    SHAPES,
    TRAIN_LOOKS,
    Look,
    Scene,
    distinct_turns,
    draw,
    random_look,
    random_scene,
)

FAMILY = "counting"
Condition = tuple[str | None, str | None]  # (color, shape); None admits any

PHRASINGS = (
    "How many {things} are there?",
    "Count the {things}.",
    "What is the number of {things}?",
    "How many {things} are in the picture?",
    "How many {things} do you see?",
    "Give the count of {things} in the image.",
    "How many {things} does the picture show?",
    "Count all {things} in this picture.",
    "Tell me how many {things} you can find.",
    "Give me the number of {things}.",
    "Say how many {things} the image shows.",
    "Say how many {things} there are.",
    "Please count the {things} you see.",
    "How many {things} can you find?",
    "What is the count of {things}?",
    "Give the number of {things} in the picture.",
    "Tell me the number of {things} in the picture.",
    "In the picture, how many {things} are there?",
    "How many {things} have you found?",
    "Count every one of the {things}.",
    "Please tell me how many {things} you see.",
    "I need the number of {things} here.",
    "The number of {things} is?",
    "How many {things} does this image have?",
)
# Asked in training only: whoever can name the place of each can count them.
PLACES = (
    "Where are the {things}? Name every place.",
    "List the places of all {things}.",
    "At which places are {things}?",
    "Name all places that hold {things}.",
    "Find the {things}: at which places are they?",
    "Which places have {things}?",
)
PLACES_SHARE = 0.25


def conditions(split: Split) -> list[Condition]:
    """Everything that can be counted; held-out combinations are not even named in training."""
    looks = TRAIN_LOOKS if split == "train" else LOOKS
    return [(None, None), *((c, None) for c in COLORS), *((None, s) for s in SHAPES), *looks]


def fits(look: Look, condition: Condition) -> bool:
    return all(want is None or want == have for have, want in zip(look, condition, strict=True))


def count(scene: Scene, condition: Condition) -> int:
    return sum(fits(thing.look, condition) for thing in scene.things)


def things_named(condition: Condition) -> str:
    """The plural of what is counted: "shapes", "red shapes", "circles", "red circles"."""
    color, shape = condition
    noun = f"{shape}s" if shape else "shapes"
    return f"{color} {noun}" if color else noun


def ask(scene: Scene, rng: np.random.Generator, split: Split) -> Turn:
    """A question whose answer is drawn evenly from the counts that occur in the scene."""
    by_answer: dict[int, list[Condition]] = defaultdict(list)
    for condition in conditions(split):
        by_answer[count(scene, condition)].append(condition)
    candidates = by_answer[pick(rng, sorted(by_answer))]
    arity = pick(rng, sorted({_arity(c) for c in candidates}))  # else the many pairs would crowd out the rest
    condition = pick(rng, [c for c in candidates if _arity(c) == arity])
    if split == "train" and rng.random() < PLACES_SHARE:
        return _places(scene, condition, rng)
    return _turn(scene, condition, rng, split)


def _places(scene: Scene, condition: Condition, rng: np.random.Generator) -> Turn:
    found = [thing.position for thing in scene.things if fits(thing.look, condition)]
    question = phrase(rng, PLACES, "train", things=things_named(condition))
    return Turn(question, ", ".join(found) or "nowhere", FAMILY)


def _arity(condition: Condition) -> tuple[bool, bool]:
    return condition[0] is not None, condition[1] is not None


def _turn(scene: Scene, condition: Condition, rng: np.random.Generator, split: Split) -> Turn:
    question = phrase(rng, PHRASINGS, split, things=things_named(condition))
    return Turn(question, str(count(scene, condition)), FAMILY)


def random_condition(rng: np.random.Generator, split: Split) -> Condition:
    """No condition, a color, a shape or both, equally often."""
    color, shape = random_look(rng, split)
    return pick(rng, [(None, None), (color, None), (None, shape), (color, shape)])


def looks_with(rng: np.random.Generator, split: Split, condition: Condition, matching: int, others: int) -> list[Look]:
    """``matching`` looks that fit the condition and ``others`` that do not."""
    allowed = TRAIN_LOOKS if split == "train" else LOOKS
    inside = [look for look in allowed if fits(look, condition)]
    outside = [look for look in allowed if not fits(look, condition)]
    # Half of the others share a color or a shape with what is counted, or a glance at one attribute would do.
    near = [look for look in outside if look[0] == condition[0] or look[1] == condition[1]] or outside
    far = [pick(rng, near if rng.random() < 0.5 else outside) for _ in range(others)]
    return [pick(rng, inside) for _ in range(matching)] + far


def make(rng: np.random.Generator, split: Split, n_turns: int, max_side: int) -> Item:
    """A picture whose first question has an answer drawn evenly from 0..9."""
    condition, answer = random_condition(rng, split), int(rng.integers(MAX_THINGS + 1))
    others = 0 if condition == (None, None) else int(rng.integers(MAX_THINGS - answer + 1))
    looks = looks_with(rng, split, condition, answer, others)
    scene = random_scene(rng, split, len(looks), max_side, looks)
    picture = draw(scene, rng)
    first = _turn(scene, condition, rng, split)
    turns = distinct_turns(n_turns, lambda: ask(scene, rng, split), [first])
    return Item([picture], "image", turns, scene.facts())
