"""Clips of 4 to 16 frames: which way it moves, what appears, in which order colors appear, how often a ball bounces.

A clip tells one story. Its frames share one background, and every touch of the floor is a frame of its own, so that
what is asked can be seen in the frames as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from data_pipelines.playground.base import Item, Split, Turn, phrase, pick
from data_pipelines.playground.scene import (
    COLORS,
    HELD_OUT,
    LOOKS,
    MAX_THINGS,
    RADII,
    SHAPES,
    Scene,
    Thing,
    distinct_turns,
    paint,
    paint_background,
    place,
    random_background,
    random_frame,
    random_look,
    tint,
)

FAMILY = "video"
MIN_FRAMES, MAX_FRAMES = 4, 16

DIRECTION = (
    "In which direction does the shape move: left, right, up or down?",
    "Which way does the moving shape go: left, right, up or down?",
    "Left, right, up or down: where does the shape move?",
    "The shape moves in which direction?",
    "Name the direction of the motion: left, right, up or down.",
    "Where is the moving shape heading: left, right, up or down?",
    "Tell me where the shape moves: left, right, up or down.",
    "Which direction does the moving shape take: left, right, up or down?",
    "Does the shape move left, right, up or down?",
    "Say which way the shape moves: left, right, up or down.",
    "In what direction is the shape going: left, right, up or down?",
    "Which way is it moving: left, right, up or down?",
)
MOVER = (
    "Which shape moves?",
    "What is moving in the video?",
    "Name the shape that does not stay in place.",
    "Which shape changes its place?",
    "What moves in this clip?",
    "Tell me which shape is in motion.",
    "Something moves in this video. What is it?",
    "Say which shape moves.",
    "The moving shape: which is it?",
)
APPEARED = (
    "What appears in the video?",
    "Which shape appears during the clip?",
    "What comes into the picture?",
    "Which shape is new at the end of the video?",
    "Name the shape that appears.",
    "Something appears in this video. What is it?",
    "Tell me what appears.",
    "Which shape shows up during the video?",
    "What shows up in the clip?",
    "Say what appears during the video.",
    "A shape appears in the clip. Which?",
    "In the video a new shape appears. Which one?",
    "Which new shape do you see in the clip?",
    "Say which shape comes into the picture.",
    "What new shape appears?",
)
WHERE = (
    "Where does the new shape appear?",
    "At which place does a shape appear?",
    "In which part of the picture does something appear?",
    "Where is the shape that appears?",
    "Name the place where a shape appears.",
    "Which place holds the new shape?",
    "Tell me where the new shape is.",
    "Say where something appears.",
    "A shape appears. At which place?",
)
ORDER = (
    "In which order do the colors appear?",
    "List the colors in the order in which they appear.",
    "Which colors appear, from first to last?",
    "Name the colors in order of appearance.",
    "What is the order of the colors that appear?",
    "Tell me the colors one by one as they appear.",
    "Say in which order the colors come.",
    "The colors appear in which order?",
    "Give the colors from first to last.",
    "Which color comes first, which next, and so on?",
    "List all colors as they come, one after another.",
    "Say which colors appear, in their order.",
    "Write the colors in the order of the video.",
    "In what order do you see the colors appear?",
    "Tell the order of the colors.",
)
EXTREME = (
    "Which color appears {end}?",
    "What color appears {end}?",
    "Name the color that appears {end}.",
    "The shape that appears {end} has which color?",
    "Tell me the color that appears {end}.",
    "Which color comes {end}?",
    "Say which color appears {end}.",
    "Of all colors, which appears {end}?",
    "The color that appears {end}: which is it?",
)
AT_END = (
    "How many shapes are there at the end?",
    "Count the shapes in the last frame.",
    "How many shapes does the final frame show?",
    "At the end of the video, how many shapes are there?",
    "What is the number of shapes in the last frame?",
    "How many shapes do you see when the clip ends?",
    "Say how many shapes there are at the end.",
    "How many shapes are in the last frame?",
    "Tell me the number of shapes at the end of the video.",
)
BOUNCES = (
    "How many times does the ball bounce?",
    "Count the bounces of the ball.",
    "How often does the ball bounce on the floor?",
    "How often does the ball bounce?",
    "What is the number of bounces?",
    "How many times does the ball hit the floor?",
    "Give the number of bounces.",
    "Say how many times the ball bounces.",
    "What is the number of times the ball hits the floor?",
    "Tell me how often the ball bounces.",
    "How many bounces does the ball make?",
    "How many bounces do you see?",
    "The ball bounces how many times?",
    "How often does the ball hit the floor?",
    "Please count how often the ball touches the floor.",
)
BALL_COLOR = (
    "What color is the ball?",
    "Which color does the ball have?",
    "The ball is of which color?",
    "Name the color of the ball.",
    "Tell me the color of the ball.",
    "What is the color of the ball?",
    "Say what color the ball is.",
    "The ball: what is its color?",
    "Which color is the ball?",
)
# Asked in training only, mostly at the end of a chat: answers that tell all there is to see.
TELL = (
    "Tell what happens in the video.",
    "Describe the video.",
    "What happens in this clip? Write whole sentences.",
    "Describe what the video shows.",
    "Give a description of the whole clip.",
    "Say what happens from the first frame to the last.",
)
NUMBERS = (
    "How many shapes are there in each frame?",
    "Count the shapes frame by frame.",
    "Go through the frames: how many shapes does each one show?",
    "Give the number of shapes of every frame.",
    "For each frame, how many shapes do you see?",
    "Frame by frame, how many shapes are there?",
)
PLACES = (
    "Where is the {moving} in each frame?",
    "Name the place of the {moving} frame by frame.",
    "Go through the frames: where is the {moving} in each one?",
    "Give the place of the {moving} for every frame.",
    "For each frame, where do you see the {moving}?",
    "Frame by frame, where is the {moving}?",
)
LONG_SHARE = 0.75
# Direction: (runs along x, from small to large coordinate).
DIRECTIONS = {"left": (True, False), "right": (True, True), "up": (False, False), "down": (False, True)}

Fact = tuple[Sequence[str], str]  # phrasings, answer
Frames = list[list[Thing]]  # the things of each frame


@dataclass(frozen=True)
class Story:
    """What each frame shows and what can be asked; the first fact is what the story is about, ``long`` trains only."""

    name: str
    frames: Frames
    facts: list[Fact]
    long: list[Fact]


def make(rng: np.random.Generator, split: Split, n_turns: int, max_side: int) -> Item:
    """One clip; all its frames have one size."""
    width, height = random_frame(rng, max_side)
    story = pick(rng, (_motion, _appearance, _order, _bounces))(rng, split, width, height)
    first = _turn(story.facts[0], rng, split)
    long = [_turn(pick(rng, story.long), rng, split)] if split == "train" and rng.random() < LONG_SHARE else []
    turns = distinct_turns(max(1, n_turns - len(long)), lambda: _turn(pick(rng, story.facts), rng, split), [first])
    frames = [[{**thing.facts(), "x": thing.x, "y": thing.y} for thing in things] for things in story.frames]
    return Item(
        _film(story.frames, width, height, rng),
        "video",
        (turns + long)[-n_turns:],
        {"story": story.name, "frames": frames},
    )


def _turn(fact: Fact, rng: np.random.Generator, split: Split) -> Turn:
    return Turn(phrase(rng, fact[0], split), fact[1], FAMILY)


def _film(frames: Frames, width: int, height: int, rng: np.random.Generator) -> list[Image.Image]:
    background = paint_background(Scene((), width, height, random_background(rng)), rng)
    tints = {color: tint(color, rng) for color in COLORS}
    film = [background.copy() for _ in frames]
    for picture, things in zip(film, frames, strict=True):
        for thing in things:
            paint(picture, thing, tints[thing.color])
    return film


def _n_frames(rng: np.random.Generator) -> int:
    return int(rng.integers(MIN_FRAMES, MAX_FRAMES + 1))


def _motion(rng: np.random.Generator, split: Split, width: int, height: int) -> Story:
    """One thing crosses its row or column steadily; up to three others stand outside that lane."""
    way, lane, steps = pick(rng, list(DIRECTIONS)), int(rng.integers(3)), np.linspace(0, 1, _n_frames(rng))
    along_x, rising = DIRECTIONS[way]
    mover = place(rng, random_look(rng, split), lane * 3 + 1 if along_x else 3 + lane, width, height)
    reach = mover.r * min(width, height) / (width if along_x else height)
    low, high = rng.uniform(reach + 0.02, 0.3), rng.uniform(0.7, 0.98 - reach)
    path = low + (high - low) * (steps if rising else 1 - steps)  # [frames]
    outside = [cell for cell in range(MAX_THINGS) if (cell // 3 if along_x else cell % 3) != lane]
    cells = rng.permutation(outside)[: rng.integers(4)]
    still = [place(rng, random_look(rng, split), int(cell), width, height) for cell in cells]
    frames = [[*still, replace(mover, **{"x" if along_x else "y": float(v)})] for v in path]
    seen = [things[-1].position for things in frames]
    told = f"A {mover.size} {mover.name} moves {way}, from the {seen[0]} to the {seen[-1]}."
    long = [(TELL, _sentences(told, still)), (_filled(PLACES, moving="moving shape"), ", ".join(seen))]
    return Story("direction", frames, [(DIRECTION, way), (DIRECTION, way), (MOVER, mover.name)], long)


def _appearance(rng: np.random.Generator, split: Split, width: int, height: int) -> Story:
    """One thing comes to up to four others, none of which looks like it."""
    cells, look, n_frames = rng.permutation(MAX_THINGS), random_look(rng, split), _n_frames(rng)
    new = place(rng, look, int(cells[0]), width, height)
    others = [other for other in LOOKS if other != look and (split == "heldout" or other not in HELD_OUT)]
    still = [place(rng, pick(rng, others), int(cell), width, height) for cell in cells[1 : rng.integers(2, 6)]]
    start = int(rng.integers(1, n_frames - 1))
    frames = [[*still, new] if i >= start else still for i in range(n_frames)]
    told = f"At the {new.position} a {new.size} {new.name} appears."
    long = [(TELL, _sentences(told, still)), (NUMBERS, _numbers(frames))]
    return Story(
        "appeared", frames, [(APPEARED, new.name), (WHERE, new.position), (AT_END, str(len(still) + 1))], long
    )


def _order(rng: np.random.Generator, split: Split, width: int, height: int) -> Story:
    """Two to four things of different colors come one after another and stay."""
    n_things, n_frames = int(rng.integers(2, 5)), _n_frames(rng)
    colors, cells = [list(COLORS)[i] for i in rng.permutation(len(COLORS))[:n_things]], rng.permutation(MAX_THINGS)
    looks = [pick(rng, [(c, s) for s in SHAPES if split == "heldout" or (c, s) not in HELD_OUT]) for c in colors]
    things = [place(rng, look, int(cell), width, height) for look, cell in zip(looks, cells, strict=False)]
    starts = np.sort(rng.permutation(n_frames)[:n_things])
    frames = [[t for t, start in zip(things, starts, strict=True) if start <= i] for i in range(n_frames)]
    ends = [(_filled(EXTREME, end="first"), colors[0]), (_filled(EXTREME, end="last"), colors[-1])]
    told = " ".join(f"At the {t.position} a {t.size} {t.name} appears." for t, _ in zip(things, starts))
    long = [(TELL, told), (NUMBERS, _numbers(frames))]
    return Story("order", frames, [(ORDER, ", ".join(colors)), *ends, (AT_END, str(n_things))], long)


def _filled(phrasings: Sequence[str], **slots: str) -> list[str]:
    return [phrasing.format(**slots) for phrasing in phrasings]


def _sentences(told: str, still: Sequence[Thing]) -> str:
    """What happens, then what stands still, row by row."""
    ordered = sorted(still, key=lambda thing: (thing.row, thing.column))
    return " ".join([told, *(f"At the {t.position} is a {t.size} {t.name}." for t in ordered)])


def _numbers(frames: Frames) -> str:
    return ", ".join(str(len(things)) for things in frames)


def _bounces(rng: np.random.Generator, split: Split, width: int, height: int) -> Story:
    """A ball waits, then falls to the lower edge and rises again up to four times while it drifts sideways."""
    n_bounces, color = int(rng.integers(5)), pick(rng, list(COLORS))
    heights = _heights(rng, n_bounces)  # [frames], 1 at the top, 0 on the floor
    size = pick(rng, ("small", "medium"))
    r = float(rng.uniform(*RADII[size]))
    rx, ry = r * min(width, height) / width, r * min(width, height) / height
    top, floor = rng.uniform(ry + 0.02, 0.3), 0.99 - ry
    drift = np.linspace(rng.uniform(rx + 0.01, 0.35), rng.uniform(0.65, 0.99 - rx), len(heights))
    xs, ys = drift if rng.random() < 0.5 else 1 - drift, floor - (floor - top) * heights
    frames = [[Thing("circle", color, size, float(x), float(y), r)] for x, y in zip(xs, ys, strict=True)]
    levels = ", ".join("floor" if height == 0 else "high" if height > 0.6 else "low" for height in heights)
    times = "once" if n_bounces == 1 else f"{n_bounces} times"
    long = [(TELL, f"A {size} {color} ball bounces {times}.")] + [(_filled(PLACES, moving="ball"), levels)] * 3
    facts = [(BOUNCES, str(n_bounces)), (BOUNCES, str(n_bounces)), (BALL_COLOR, color)]
    return Story("bounces", frames, facts, long)


def _heights(rng: np.random.Generator, n_bounces: int) -> np.ndarray:
    """Height of the ball in each frame: some frames at the top, then ``n_bounces`` arcs down and up again."""
    if n_bounces == 0:
        return np.ones(_n_frames(rng))
    per_arc = int(rng.integers(1, (MAX_FRAMES - 1) // (2 * n_bounces) + 1))  # frames from the top to the floor
    fall = 1 - (np.arange(1, per_arc + 1) / per_arc) ** 2
    arc = np.concatenate([fall, fall[::-1][1:], [1.0]])  # [2 * per_arc], starts below the top and ends at it
    moving = np.concatenate([[1.0], np.tile(arc, n_bounces)])
    spare = MAX_FRAMES - len(moving)
    wait = int(rng.integers(max(0, MIN_FRAMES - len(moving)), spare + 1))
    return np.concatenate([np.ones(wait), moving])
