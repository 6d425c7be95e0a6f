"""One short sentence a thing, row by row: the dense answer from which a model learns to look.

The sentence has one fixed form, so that an answer can be read back into things and scored slot by slot. It names the
place first: what stands there can then be looked up, where otherwise the words would have to be found by counting.
"""

import re

import numpy as np

from data_pipelines.playground.base import Item, Split, Turn, phrase
from data_pipelines.playground.scene import COLORS, POSITIONS, SHAPES, SIZES, Scene, distinct_turns, draw, random_scene

FAMILY = "describe"

PHRASINGS = (
    "Describe the image.",
    "Describe the picture, one sentence for each shape.",
    "What does the image show? Describe each shape.",
    "What is in the picture? Go row by row.",
    "Describe every shape with its size, color and place.",
    "Write one sentence about each shape you see.",
    "Describe what you see.",
    "List the shapes of the picture in sentences.",
    "Give a description of the whole picture.",
    "Give a description of the image.",
    "Write about every shape in the picture.",
    "Say what is in the image, shape by shape.",
    "Write a description of all the shapes.",
    "Tell me about the whole picture.",
    "Describe the scene.",
    "Give one sentence for each shape.",
    "What do you see in the picture? Write whole sentences.",
    "Tell me everything that is in the image.",
    "Please describe this picture.",
    "Which shapes do you see, and where? Answer in sentences.",
    "Please give a full description.",
    "Give the full description of the picture.",
    "Describe the whole scene in sentences.",
    "Please describe all that you see.",
    "What is in this scene? Answer in whole sentences.",
    "I would like a full description of this image.",
    "Write down what the picture shows, a sentence a shape.",
    "Go through the scene and describe each shape.",
    "Please tell me what the scene holds.",
    "Can you describe this image?",
)

_SENTENCE = re.compile(
    rf"\b(?:at|in)\s+the\s+(?P<position>{'|'.join(POSITIONS)})\s+is\s+an?"
    rf"\s+(?P<size>{'|'.join(SIZES)})\s+(?P<color>{'|'.join(COLORS)})\s+(?P<shape>{'|'.join(SHAPES)})\b",
    re.IGNORECASE,
)


def describe(scene: Scene) -> str:
    sentences = (f"At the {t.position} is a {t.size} {t.color} {t.shape}." for t in scene.things)
    return " ".join(sentences) or "The picture is empty."


def parse(text: str) -> list[dict[str, str]]:
    """The things a description speaks of, in its order; sentences of another form are passed over."""
    found = (match.groupdict() for match in _SENTENCE.finditer(text))
    return [{key: thing[key].lower() for key in ("shape", "color", "position", "size")} for thing in found]


def ask(scene: Scene, rng: np.random.Generator, split: Split) -> Turn:
    return Turn(phrase(rng, PHRASINGS, split), describe(scene), FAMILY)


def make(rng: np.random.Generator, split: Split, n_turns: int, max_side: int) -> Item:
    """Two to eight things."""
    scene = random_scene(rng, split, int(rng.integers(2, 9)), max_side)
    picture = draw(scene, rng)
    turns = distinct_turns(n_turns, lambda: ask(scene, rng, split))
    return Item([picture], "image", turns, scene.facts())
