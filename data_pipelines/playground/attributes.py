"""Color, shape or size of one thing: by its place, or by the one other attribute that singles it out.

A question is made only of what names exactly one thing, so it has exactly one right answer.
"""

import numpy as np

from data_pipelines.playground.base import Item, Split, Turn, phrase, pick
from data_pipelines.playground.scene import Scene, Thing, distinct_turns, draw, random_scene, unique_things

FAMILY = "attributes"

AT_PLACE = (
    "What is the {what} of the thing at the {place}?",
    "Look at the {place}: what {what} is the thing there?",
    "Name the {what} of the thing in the {place} of the picture.",
    "What {what} does the thing at the {place} have?",
    "Tell me the {what} of the thing at the {place}.",
    "At the {place} there is one thing. Which {what} does it have?",
    "Which {what} has the thing at the {place}?",
    "The thing at the {place}: what is its {what}?",
    "Give the {what} of whatever is at the {place}.",
    "Say which {what} the thing at the {place} has.",
    "Look at the thing at the {place}. What is its {what}?",
    "The {what} of the thing at the {place}: which is it?",
    "Give me the {what} of the thing at the {place}.",
    "Whatever is at the {place}: of which {what} is it?",
)
COLOR_OF_SHAPE = (
    "What color is the {name}?",
    "Which color does the {name} have?",
    "The {name} in the picture is of which color?",
    "Tell me the color of the {name}.",
    "There is one {name} in the picture. What is its color?",
    "Name the color of the only {name}.",
    "Say the color of the {name}.",
    "The only {name}: what color is it?",
    "What is the color of the {name} in the picture?",
    "Of which color is the {name}?",
    "Give the color of the {name}.",
)
SHAPE_OF_COLOR = (
    "What shape is {name}?",
    "Which shape is {name} in this picture?",
    "The {name} one has which shape?",
    "Tell me the shape of the {name} thing.",
    "There is one {name} thing in the picture. What is its shape?",
    "Name the shape that is colored {name}.",
    "Say the shape of the {name} thing.",
    "The {name} thing is of which shape?",
    "What is the shape of the {name} thing?",
    "Of which shape is the {name} thing?",
    "Give the shape of the {name} one.",
)
SIZE_OF_THING = (
    "What size is the {name}?",
    "How big is the {name}: small, medium or large?",
    "Small, medium or large: which is the {name}?",
    "Tell me the size of the {name}.",
    "Is the {name} small, medium or large?",
    "Name the size of the {name}.",
    "Say the size of the {name}.",
    "The {name} is of which size: small, medium or large?",
    "What is the size of the {name}?",
    "Which is the {name}: large, medium or small?",
    "Give the size of the {name}.",
)

# What else is asked in training: further ways to say the same, so that unseen ones are less strange.
TRAINING_ONLY = {
    AT_PLACE: (
        "There is a thing at the {place}: which is its {what}?",
        "For the thing at the {place}, give the {what}.",
        "Find the {place}: what {what} does the thing there have?",
        "Whatever stands at the {place}: what is its {what}?",
        "The {what} of what is at the {place}?",
        "Give the {what} of what you see at the {place}.",
        "Say only the {what} of whatever you find at the {place}.",
        "Describe only the {what} of the thing at the {place}.",
        "The thing at the {place} has a {what}: which is it?",
        "Which is the {what} of the thing at the {place}?",
    ),
    COLOR_OF_SHAPE: (
        "The {name} has which color?",
        "What is the color of the only {name}?",
        "The {name} in this picture has what color?",
        "Look for the {name}: what color is it?",
        "The color of the {name} is which?",
    ),
    SHAPE_OF_COLOR: (
        "The {name} thing has which shape?",
        "What shape does the {name} thing have?",
        "Look for the {name} thing: what shape is it?",
        "Name the shape of the only {name} thing.",
        "The shape of the {name} thing is which?",
    ),
    SIZE_OF_THING: (
        "Large, medium or small: what is the {name}?",
        "Medium, small or large: which size does the {name} have?",
        "Which of small, medium and large is the {name}?",
        "How large is the {name}?",
        "Of which size is the {name}?",
        "The {name}: small, medium or large?",
        "Is it small, medium or large, the {name}?",
    ),
}


def ask(scene: Scene, rng: np.random.Generator, split: Split) -> Turn:
    """A question about one of at least one things."""
    kinds = [kind for kind in (_at_place, _color_of_shape, _shape_of_color, _size_of_thing) if kind(scene)]
    kind = _at_place if rng.random() < 0.4 else pick(rng, kinds)
    phrasings, slots, answer = pick(rng, kind(scene))
    question = phrase(rng, phrasings, split, TRAINING_ONLY[phrasings], **slots)
    return Turn(question, answer, FAMILY)


Question = tuple[tuple[str, ...], dict[str, str], str]  # phrasings, what fills them, answer


def _at_place(scene: Scene) -> list[Question]:
    return [
        (AT_PLACE, {"what": what, "place": thing.position}, getattr(thing, what))
        for thing in scene.things
        for what in ("color", "shape", "size")
    ]


def _color_of_shape(scene: Scene) -> list[Question]:
    return [(COLOR_OF_SHAPE, {"name": t.shape}, t.color) for t in _alone_in(scene, "shape")]


def _shape_of_color(scene: Scene) -> list[Question]:
    return [(SHAPE_OF_COLOR, {"name": t.color}, t.shape) for t in _alone_in(scene, "color")]


def _size_of_thing(scene: Scene) -> list[Question]:
    return [(SIZE_OF_THING, {"name": t.name}, t.size) for t in unique_things(scene)]


def _alone_in(scene: Scene, what: str) -> list[Thing]:
    """The things that share their value of ``what`` with no other."""
    values = [getattr(thing, what) for thing in scene.things]
    return [thing for thing, value in zip(scene.things, values, strict=True) if values.count(value) == 1]


def make(rng: np.random.Generator, split: Split, n_turns: int, max_side: int) -> Item:
    """One to six things: few enough that colors and shapes are often unique."""
    scene = random_scene(rng, split, int(rng.integers(1, 7)), max_side)
    picture = draw(scene, rng)
    turns = distinct_turns(n_turns, lambda: ask(scene, rng, split))
    return Item([picture], "image", turns, scene.facts())
