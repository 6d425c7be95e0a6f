"""Many turns about one picture: the training mix of the five scene families.

Vision rows are paid once for all turns. A long answer (a description, or JSON) tells everything the short ones ask, so
it mostly comes last: otherwise the short answers could be copied from it without a look at the picture.
"""

import numpy as np

from data_pipelines.playground import attributes, counting, describe, relations, scene_json
from data_pipelines.playground.base import Item, Split, Turn, pick
from data_pipelines.playground.scene import MAX_THINGS, Look, Scene, distinct_turns, draw, random_look, random_scene

# (share, family, fewest and most things) of the one long answer of a chat; None: short turns only.
LONG = ((0.65, describe, 1, 8), (0.2, scene_json, 1, 5), (0.15, None, 1, MAX_THINGS))
LONG_ALONE = 0.4  # how often a chat of one turn is the long answer
LONG_ANYWHERE = 0.25  # how often the long answer is not the last turn


def make(rng: np.random.Generator, split: Split, n_turns: int, max_side: int) -> Item:
    """``n_turns`` different questions about one scene of one to nine things."""
    _, long, fewest, most = LONG[rng.choice(len(LONG), p=[share for share, *_ in LONG])]
    # Mostly few things: a model learns to look where there is little to confuse, and such chats are short.
    n_things = fewest + int((most + 1 - fewest) * rng.random() ** 2)
    scene = random_scene(rng, split, n_things, max_side, _looks(rng, split, n_things))
    picture = draw(scene, rng)
    with_long = long is not None and (n_turns > 1 or rng.random() < LONG_ALONE)
    turns = distinct_turns(n_turns - with_long, lambda: _short(scene, rng, split))
    if with_long:
        at = int(rng.integers(n_turns)) if rng.random() < LONG_ANYWHERE else len(turns)
        turns.insert(at, long.ask(scene, rng, split))
    return Item([picture], "image", turns, scene.facts())


def _looks(rng: np.random.Generator, split: Split, n: int) -> list[Look]:
    """Random looks; in a third of the scenes from three only, so that there is something to count."""
    if rng.random() < 1 / 3:
        palette = [random_look(rng, split) for _ in range(3)]
        return [pick(rng, palette) for _ in range(n)]
    return [random_look(rng, split) for _ in range(n)]


def _short(scene: Scene, rng: np.random.Generator, split: Split) -> Turn:
    families = [attributes, counting, relations] if relations.askable(scene) else [attributes, counting]
    return pick(rng, families).ask(scene, rng, split)
