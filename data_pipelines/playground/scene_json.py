"""The things of a picture as a JSON array, in reading order."""

import json
from typing import Any

import numpy as np

from data_pipelines.playground.base import Item, Split, Turn, phrase
from data_pipelines.playground.scene import COLORS, POSITIONS, SHAPES, SIZES, Scene, distinct_turns, draw, random_scene

FAMILY = "json"
VALUES = {"shape": list(SHAPES), "color": list(COLORS), "position": list(POSITIONS), "size": list(SIZES)}
SCHEMA: dict[str, Any] = {
    "type": "array",
    "maxItems": len(POSITIONS),
    "items": {
        "type": "object",
        "properties": {key: {"type": "string", "enum": words} for key, words in VALUES.items()},
        "required": list(VALUES),
        "additionalProperties": False,
    },
}

PHRASINGS = (
    "List the shapes as JSON with shape, color, position and size.",
    "Describe the image as a JSON array.",
    "Write the picture as a JSON array of objects.",
    "Give me JSON: every shape with shape, color, position and size.",
    "Answer in JSON: which shapes are in the picture?",
    "Turn the image into JSON with shape, color, position and size.",
    "Return a JSON array of all shapes.",
    "Output the shapes of the picture as JSON objects.",
    "As JSON please: what does the picture show?",
    "Write every shape as a JSON object.",
    "Give the picture as JSON.",
    "Describe all shapes in JSON.",
    "What is in the image? Answer with a JSON array.",
    "List what you see as JSON objects.",
    "Show the shapes as a JSON list.",
)


def parse(text: str) -> list[dict[str, str]]:
    """The objects of a JSON array, only keys of the schema kept; nothing if the text is not such an array."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return []
    objects = [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
    return [{key: str(value) for key, value in entry.items() if key in VALUES} for entry in objects]


def ask(scene: Scene, rng: np.random.Generator, split: Split) -> Turn:
    answer = json.dumps([thing.facts() for thing in scene.things], separators=(", ", ": "))
    return Turn(phrase(rng, PHRASINGS, split), answer, FAMILY)


def make(rng: np.random.Generator, split: Split, n_turns: int, max_side: int) -> Item:
    """One to five things."""
    scene = random_scene(rng, split, int(rng.integers(1, 6)), max_side)
    picture = draw(scene, rng)
    turns = distinct_turns(n_turns, lambda: ask(scene, rng, split))
    return Item([picture], "image", turns, scene.facts())
