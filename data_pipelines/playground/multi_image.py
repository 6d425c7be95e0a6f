"""Two to four pictures: what changed, which has more, are they the same, how many in the third.

An album is made for its first question (a change, a comparison, a copy or plain pictures); further turns ask whatever
else has one right answer. "Same or different" is asked only of albums made for it, where both are equally likely.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from data_pipelines.playground import counting
from data_pipelines.playground.base import Item, Split, Turn, phrase, pick
from data_pipelines.playground.counting import Condition, count, things_named
from data_pipelines.playground.describe import describe
from data_pipelines.playground.scene import (
    COLORS,
    HELD_OUT,
    MAX_THINGS,
    SHAPES,
    SIZES,
    Look,
    Scene,
    Thing,
    distinct_turns,
    draw,
    place,
    random_look,
    random_scene,
    resize,
)

FAMILY = "multi_image"
ORDINALS = ("first", "second", "third", "fourth")

KIND = (
    "What changed from the first to the second picture: color, shape, size, added or removed?",
    "Compare the first and the second picture. Is it a color, shape, size, added or removed?",
    "Color, shape, size, added or removed: what is different in the second picture?",
    "How does the second picture differ from the first: color, shape, size, added or removed?",
    "One thing differs in the second picture. What kind of change: color, shape, size, added or removed?",
    "Name the change between the first two pictures: color, shape, size, added or removed.",
    "Tell me what kind of change the second picture shows: color, shape, size, added or removed.",
    "What kind of change is there from the first to the second picture: color, shape, size, added or removed?",
    "Say how the second picture was changed: color, shape, size, added or removed.",
    "From the first to the second picture: was it a color, shape or size, or was something added or removed?",
    "Which kind of change was made: color, shape, size, added or removed?",
    "The second picture is changed. Color, shape, size, added or removed?",
)
WHICH = {
    "changed": (
        "Which shape of the first picture looks different in the second?",
        "Name the shape in the first picture that has changed in the second.",
        "Something of the first picture is altered in the second. What was it in the first?",
        "Which shape in the first picture does the second picture show differently?",
        "What in the first picture is not the same in the second?",
        "Find the shape of the first picture that the second one changes.",
        "Tell me which shape of the first picture has changed.",
        "One shape of the first picture looks different in the second. Which?",
        "Say which shape of the first picture was changed.",
    ),
    "added": (
        "Which shape was added in the second picture?",
        "What is new in the second picture?",
        "The second picture has one more shape. Which?",
        "What does the second picture have that the first lacks?",
        "Name the shape that is only in the second picture.",
        "Which shape has joined in the second picture?",
        "Say which shape is new in the second picture.",
        "Tell me what was added to the second picture.",
        "Which shape do you find in the second picture only?",
    ),
    "removed": (
        "Which shape is missing in the second picture?",
        "What was removed from the first picture?",
        "The second picture has one shape less. Which?",
        "What does the first picture have that the second lacks?",
        "Name the shape that is only in the first picture.",
        "Which shape has gone in the second picture?",
        "Say which shape the second picture lacks.",
        "Tell me what was removed from the second picture.",
        "Which shape do you find in the first picture only?",
    ),
}
WHERE = (
    "Where do the first and the second picture differ?",
    "At which place did something change from the first to the second picture?",
    "In which part of the picture is the change between the first and the second?",
    "Where is the difference between the first two pictures?",
    "Name the place that differs between the first and the second picture.",
    "Which place of the second picture is not as in the first?",
    "Find the place where the second picture is changed.",
    "Say where the second picture differs from the first.",
    "The second picture is changed at one place. Which?",
    "Name the place of the change.",
    "At what place is the second picture different?",
    "Tell me where the change is.",
)
SAME = (
    "Do the first and the second picture show the same shapes: same or different?",
    "Same or different: the first and the second picture?",
    "Are the shapes in the first two pictures the same or different?",
    "Compare the first and the second picture. Same or different?",
    "Is the second picture the same as the first, or different? Say same or different.",
    "The first picture and the second: same or different?",
    "Are the first two pictures the same or different?",
    "Look at the first two pictures: same or different?",
    "Say whether the first and the second picture are the same or different.",
    "Different or the same: the shapes of the first and of the second picture?",
    "The first picture and the second one, are they the same or different?",
    "Do the first two pictures show the same, or are they different?",
    "Do you see any difference between the first two pictures: same or different?",
    "Is there a change from the first to the second picture? Say same or different.",
    "Would you call the first two pictures the same or different?",
)
COMPARE = (
    "Which picture has {more} {things}, the {a} or the {b}?",
    "Where are there {more} {things}, in the {a} or in the {b} picture?",
    "The {a} or the {b} picture: which one has {more} {things}?",
    "Of the {a} and the {b} picture, which has {more} {things}?",
    "Which shows {more} {things}, the {a} picture or the {b}?",
    "Between the {a} and the {b} picture, which contains {more} {things}?",
    "Are there {more} {things} in the {a} picture or in the {b}?",
    "Tell me which picture has {more} {things}: the {a} or the {b}.",
    "Say which of the two has {more} {things}: the {a} picture or the {b}.",
    "Compare the {a} and the {b} picture: which has {more} {things}?",
    "The {a} picture or the {b}: where do you see {more} {things}?",
    "Do you see {more} {things} in the {a} or in the {b} picture?",
)
EXTREME = (
    "Which picture has the {most} {things}?",
    "In which picture are the {most} {things}?",
    "Of all pictures, which has the {most} {things}?",
    "Name the picture with the {most} {things}.",
    "Which of the pictures shows the {most} {things}?",
    "Where are the {most} {things}, in which picture?",
    "Which picture contains the {most} {things}?",
    "Find the picture that has the {most} {things}.",
    "Say which picture has the {most} {things}.",
    "Compare all pictures: where are the {most} {things}?",
    "The {most} {things} are in which picture?",
    "Tell me which one has the {most} {things}.",
)
HOW_MANY = (
    "How many {things} are in the {a} picture?",
    "Count the {things} in the {a} picture.",
    "What is the number of {things} in the {a} picture?",
    "How many {things} does the {a} picture show?",
    "Look at the {a} picture: how many {things} are there?",
    "Give the count of {things} in the {a} picture.",
    "Give me the number of {things} in the {a} picture.",
    "Tell me how many {things} the {a} picture has.",
    "The {a} picture: what is its number of {things}?",
    "Say how many {things} there are in the {a} picture.",
    "In the {a} picture, how many {things} do you see?",
    "How many {things} can you find in the {a} picture?",
)
# Asked in training only, mostly at the end of a chat: answers that tell all there is to see in one of the pictures.
ONE = (
    "Describe the {a} picture.",
    "What does the {a} picture show? Describe each shape.",
    "Describe every shape of the {a} picture.",
    "Give a description of the {a} picture.",
    "What is in the {a} picture? Write whole sentences.",
    "Tell me about the {a} picture.",
)
CHANGE = (
    "Describe what changed from the first to the second picture.",
    "What has changed in the second picture? Describe it.",
    "Describe the difference between the first two pictures.",
    "Tell me what is different in the second picture, and where.",
    "Compare the first two pictures and describe the change.",
    "Describe the change between the first and the second picture.",
)
LONG_SHARE = 0.75


@dataclass(frozen=True)
class Change:
    """What differs in the second picture: ``before`` is missing for "added", ``after`` for "removed"."""

    kind: str
    before: Thing | None
    after: Thing | None


@dataclass(frozen=True)
class Album:
    """Pictures, the change between the first two (if they are related and differ), and the first question's turn."""

    scenes: list[Scene]
    change: Change | None
    first: Turn


def make(rng: np.random.Generator, split: Split, n_turns: int, max_side: int) -> Item:
    """Two to four pictures, each of its own size unless related."""
    album = pick(rng, (_changed, _copied, _compared, _counted))(rng, split, max_side)
    pictures = [draw(scene, rng) for scene in album.scenes]
    long = [_long(album, rng)] if split == "train" and rng.random() < LONG_SHARE else []
    turns = distinct_turns(max(1, n_turns - len(long)), lambda: _another(album, rng, split), [album.first])
    change = album.change.kind if album.change else None
    return Item(
        pictures, "image", (turns + long)[-n_turns:], {"pictures": [s.facts() for s in album.scenes], "change": change}
    )


def _changed(rng: np.random.Generator, split: Split, max_side: int) -> Album:
    scene = random_scene(rng, split, int(rng.integers(2, 6)), max_side)
    other, change = alter(scene, rng, split)
    extra = _strangers(rng, split, pick(rng, (0, 0, 1, 2)), max_side)
    return Album([scene, other, *extra], change, _about_change(change, rng, split))


def _copied(rng: np.random.Generator, split: Split, max_side: int) -> Album:
    scene = random_scene(rng, split, int(rng.integers(2, 6)), max_side)
    other, change = alter(scene, rng, split) if rng.random() < 0.5 else (scene, None)
    turn = Turn(phrase(rng, SAME, split), "different" if change else "same", FAMILY)
    return Album([scene, other, *_strangers(rng, split, pick(rng, (0, 0, 1, 2)), max_side)], change, turn)


def _compared(rng: np.random.Generator, split: Split, max_side: int) -> Album:
    """Pictures all with different counts of something."""
    n_pictures, condition = pick(rng, (2, 2, 3, 4)), counting.random_condition(rng, split)
    anything = condition == (None, None)
    counts = 1 + rng.permutation(MAX_THINGS)[:n_pictures] if anything else rng.permutation(6)[:n_pictures]
    others = [0 if anything else int(rng.integers(4)) for _ in counts]
    looks = [counting.looks_with(rng, split, condition, int(n), m) for n, m in zip(counts, others, strict=True)]
    scenes = [random_scene(rng, split, len(held), max_side, held) for held in looks]
    return Album(scenes, None, _comparison(scenes, condition, rng, split))


def _counted(rng: np.random.Generator, split: Split, max_side: int) -> Album:
    scenes = _strangers(rng, split, pick(rng, (2, 3, 3, 4)), max_side)
    return Album(scenes, None, _how_many(scenes, (None, None), rng, split))


def _strangers(rng: np.random.Generator, split: Split, n: int, max_side: int) -> list[Scene]:
    return [random_scene(rng, split, int(rng.integers(MAX_THINGS + 1)), max_side) for _ in range(n)]


def alter(scene: Scene, rng: np.random.Generator, split: Split) -> tuple[Scene, Change]:
    """The scene (1..8 things) with one thing changed, added or removed."""
    kind, before = pick(rng, ("color", "shape", "size", "added", "removed")), pick(rng, scene.things)
    if kind == "added":
        cells = sorted(set(range(MAX_THINGS)) - {t.row * 3 + t.column for t in scene.things})
        change = Change(kind, None, place(rng, random_look(rng, split), pick(rng, cells), scene.width, scene.height))
    elif kind == "removed":
        change = Change(kind, before, None)
    elif kind == "size":
        size = pick(rng, [size for size in SIZES if size != before.size])
        change = Change(kind, before, resize(rng, before, size, scene.width, scene.height))
    else:
        color, shape = pick(rng, _looks_off_by(before.look, kind, split))
        change = Change(kind, before, replace(before, color=color, shape=shape))
    return replace(scene, things=_replaced(scene.things, change)), change


def _looks_off_by(look: Look, kind: str, split: Split) -> list[Look]:
    """The looks the split allows that differ from ``look`` in ``kind`` ("color" or "shape") alone."""
    near = [(color, look[1]) for color in COLORS] if kind == "color" else [(look[0], shape) for shape in SHAPES]
    return [other for other in near if other != look and (split == "heldout" or other not in HELD_OUT)]


def _replaced(things: tuple[Thing, ...], change: Change) -> tuple[Thing, ...]:
    kept = [*(thing for thing in things if thing is not change.before), *([change.after] if change.after else [])]
    return tuple(sorted(kept, key=lambda thing: (thing.row, thing.column)))


def _another(album: Album, rng: np.random.Generator, split: Split) -> Turn:
    kinds: list[Callable[[], Turn]] = [
        lambda: _how_many(album.scenes, counting.random_condition(rng, split), rng, split),
        lambda: _comparison(album.scenes, counting.random_condition(rng, split), rng, split),
    ]
    if album.change is not None:
        kinds += [lambda: _about_change(album.change, rng, split)] * 2
    return pick(rng, kinds)()


def _long(album: Album, rng: np.random.Generator) -> Turn:
    """A description of one picture or, where the first two are related, of what changed between them."""
    related = album.change is not None or album.first.answer == "same"
    if related and rng.random() < 0.6:
        return Turn(phrase(rng, CHANGE, "train"), describe_change(album.change), FAMILY)
    index = int(rng.integers(len(album.scenes)))
    return Turn(phrase(rng, ONE, "train", a=ORDINALS[index]), describe(album.scenes[index]), FAMILY)


def describe_change(change: Change | None) -> str:
    """One sentence, the place first as in `describe`."""
    if change is None:
        return "Nothing has changed."
    place = (change.before or change.after).position
    if change.after is None:
        return f"At the {place} a {change.before.size} {change.before.name} was removed."
    if change.before is None:
        return f"At the {place} a {change.after.size} {change.after.name} was added."
    before, after = (f"{thing.size} {thing.name}" for thing in (change.before, change.after))
    return f"At the {place} a {before} is now a {after}: another {change.kind}."


def _about_change(change: Change, rng: np.random.Generator, split: Split) -> Turn:
    kind, thing = pick(rng, ("kind", "kind", "which", "where")), change.before or change.after
    if kind == "kind":
        return Turn(phrase(rng, KIND, split), change.kind, FAMILY)
    if kind == "where":
        return Turn(phrase(rng, WHERE, split), thing.position, FAMILY)
    return Turn(phrase(rng, WHICH.get(change.kind, WHICH["changed"]), split), thing.name, FAMILY)


def _comparison(scenes: list[Scene], condition: Condition, rng: np.random.Generator, split: Split) -> Turn:
    """More or fewer; how many in one picture where the counts do not tell the pictures apart."""
    counts, sign = [count(scene, condition) for scene in scenes], pick(rng, (1, -1))
    things, best = things_named(condition), max(sign * n for n in counts)
    if len(scenes) > 2 and rng.random() < 0.5 and counts.count(sign * best) == 1:
        most = "most" if sign > 0 else "fewest"
        return Turn(phrase(rng, EXTREME, split, most=most, things=things), _the(counts.index(sign * best)), FAMILY)
    pairs = [(i, j) for i in range(len(counts)) for j in range(i + 1, len(counts)) if counts[i] != counts[j]]
    if not pairs:
        return _how_many(scenes, condition, rng, split)
    i, j = pick(rng, pairs)
    more = "more" if sign > 0 else "fewer"
    question = phrase(rng, COMPARE, split, more=more, things=things, a=ORDINALS[i], b=ORDINALS[j])
    return Turn(question, _the(i if (counts[i] - counts[j]) * sign > 0 else j), FAMILY)


def _the(index: int) -> str:
    return f"the {ORDINALS[index]}"


def _how_many(scenes: list[Scene], condition: Condition, rng: np.random.Generator, split: Split) -> Turn:
    index = int(rng.integers(len(scenes)))
    question = phrase(rng, HOW_MANY, split, things=things_named(condition), a=ORDINALS[index])
    return Turn(question, str(count(scenes[index], condition)), FAMILY)
