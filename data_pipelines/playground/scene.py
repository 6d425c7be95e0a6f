"""Scenes of colored shapes: what they hold, how they are made up and how they are drawn.

A picture is a 3x3 grid of cells and a cell holds at most one thing, wholly inside it. So nothing overlaps, every place
has a name without doubt, and no sample is ever rejected and drawn again.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from data_pipelines.playground.base import Split, Turn, pick

Rgb = tuple[int, int, int]
Look = tuple[str, str]  # (color, shape)

SHAPES = ("circle", "square", "triangle", "star")
COLORS: dict[str, Rgb] = {
    "red": (215, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 85, 220),
    "yellow": (240, 210, 40),
    "purple": (140, 55, 180),
    "orange": (245, 130, 25),
}
# Radius as a share of the shorter side. A cell is 1/3 wide, so the largest thing still has air around it.
RADII = {"small": (0.055, 0.065), "medium": (0.09, 0.105), "large": (0.135, 0.15)}
SIZES = tuple(RADII)
POSITIONS = (
    *("top left", "top center", "top right"),
    *("middle left", "center", "middle right"),
    *("bottom left", "bottom center", "bottom right"),
)
# Never in the train split: recognising them takes color and shape apart from one another.
HELD_OUT: tuple[Look, ...] = (("purple", "star"), ("orange", "triangle"), ("green", "square"))
LOOKS: tuple[Look, ...] = tuple((c, s) for c in COLORS for s in SHAPES)
TRAIN_LOOKS: tuple[Look, ...] = tuple(look for look in LOOKS if look not in HELD_OUT)
HELD_OUT_SHARE = 0.1  # of a held-out scene's things
MIN_SIDE, MAX_SIDE = 96, 640
MAX_THINGS = len(POSITIONS)
CENTER_SLACK = 1 / 12  # how far a thing's centre may leave its cell's: a quarter of the cell
EDGE_SLACK = 0.01  # between a thing and the border of its cell
TINT = 12  # how far a channel may leave its named color
OVERSAMPLING = 2  # edges are drawn at this scale and averaged


@dataclass(frozen=True)
class Thing:
    """A colored shape; ``x`` and ``y`` are shares of width and height, ``r`` of the shorter side."""

    shape: str
    color: str
    size: str
    x: float
    y: float
    r: float

    @property
    def row(self) -> int:
        return int(self.y * 3)

    @property
    def column(self) -> int:
        return int(self.x * 3)

    @property
    def position(self) -> str:
        return POSITIONS[self.row * 3 + self.column]

    @property
    def look(self) -> Look:
        return self.color, self.shape

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    def facts(self) -> dict[str, str]:
        return {"shape": self.shape, "color": self.color, "position": self.position, "size": self.size}


@dataclass(frozen=True)
class Scene:
    """Things in reading order on a picture of ``width`` x ``height`` pixels over a background color."""

    things: tuple[Thing, ...]
    width: int
    height: int
    background: Rgb

    def facts(self) -> dict[str, Any]:
        """The scene in plain words, as an item's ``meta`` keeps it."""
        return {"things": [thing.facts() for thing in self.things]}


def random_look(rng: np.random.Generator, split: Split) -> Look:
    """A (color, shape) the split allows."""
    if split == "train":
        return pick(rng, TRAIN_LOOKS)
    return pick(rng, HELD_OUT if rng.random() < HELD_OUT_SHARE else LOOKS)


def random_frame(rng: np.random.Generator, max_side: int) -> tuple[int, int]:
    """Width and height in pixels, each log-uniform in [96, min(640, max_side)].

    Raises:
        ValueError: for a ``max_side`` below 96.
    """
    top = min(MAX_SIDE, max_side)
    if top < MIN_SIDE:
        raise ValueError(f"max_side is {max_side}; a picture has sides of at least {MIN_SIDE} pixels")
    sides = np.exp(rng.uniform(math.log(MIN_SIDE), math.log(top), 2))
    return tuple(int(np.clip(round(side), MIN_SIDE, top)) for side in sides)


def random_background(rng: np.random.Generator) -> Rgb:
    """A light or a dark grey with a slight cast."""
    level = rng.integers(215, 246) if rng.random() < 0.6 else rng.integers(12, 46)
    return tuple(int(level + cast) for cast in rng.integers(-6, 7, 3))


def place(rng: np.random.Generator, look: Look, cell: int, width: int, height: int) -> Thing:
    """A thing of random size wholly inside cell ``cell`` (0..8, reading order)."""
    size = pick(rng, SIZES)
    r = float(rng.uniform(*RADII[size]))
    row, column = divmod(cell, 3)
    (slack_x, slack_y), (dx, dy) = _slack(r, width, height), rng.uniform(-1, 1, 2)
    x, y = (column + 0.5) / 3 + dx * slack_x, (row + 0.5) / 3 + dy * slack_y
    return Thing(look[1], look[0], size, float(x), float(y), r)


def resize(rng: np.random.Generator, thing: Thing, size: str, width: int, height: int) -> Thing:
    """The thing in another size, moved no further than its cell demands."""
    r = float(rng.uniform(*RADII[size]))
    middles, slacks = ((thing.column + 0.5) / 3, (thing.row + 0.5) / 3), _slack(r, width, height)
    x, y = (float(np.clip(v, m - s, m + s)) for v, m, s in zip((thing.x, thing.y), middles, slacks, strict=True))
    return replace(thing, size=size, r=r, x=x, y=y)


def _slack(r: float, width: int, height: int) -> tuple[float, float]:
    """How far from its cell's centre a thing of radius ``r`` may stand, as shares of width and of height."""
    return tuple(min(CENTER_SLACK, 1 / 6 - r * min(width, height) / side - EDGE_SLACK) for side in (width, height))


def random_scene(
    rng: np.random.Generator, split: Split, n_things: int, max_side: int, looks: Sequence[Look] | None = None
) -> Scene:
    """A scene of ``n_things`` (0..9) things; ``looks`` fixes what they are, one each, otherwise they are random."""
    width, height = random_frame(rng, max_side)
    looks = [random_look(rng, split) for _ in range(n_things)] if looks is None else looks
    cells = np.sort(rng.permutation(MAX_THINGS)[:n_things])
    order = rng.permutation(n_things)
    things = (place(rng, looks[i], int(cell), width, height) for i, cell in zip(order, cells, strict=True))
    return Scene(tuple(things), width, height, random_background(rng))


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """The scene as an RGB picture; ``rng`` decides gradient, noise, tints and JPEG, nothing that a question asks."""
    picture = paint_background(scene, rng)
    for thing in scene.things:
        paint(picture, thing, tint(thing.color, rng))
    return _through_jpeg(picture, rng) if rng.random() < 0.15 else picture


def paint_background(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Background color with a mild gradient and noise, made coarse and enlarged because that is cheap."""
    rows, columns = min(48, scene.height // 4), min(48, scene.width // 4)
    slope_y, slope_x = rng.uniform(-12, 12, 2)
    ramp = slope_y * np.linspace(-1, 1, rows)[:, None] + slope_x * np.linspace(-1, 1, columns)[None]
    noise = rng.standard_normal((rows, columns), np.float32) * rng.uniform(0, 5)
    coarse = np.asarray(scene.background) + (ramp + noise)[..., None]  # [rows, columns, 3]
    small = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
    return small.resize((scene.width, scene.height), Image.Resampling.BILINEAR)


def tint(color: str, rng: np.random.Generator) -> Rgb:
    """The named color, slightly off."""
    return tuple(int(np.clip(v, 0, 255)) for v in COLORS[color] + rng.integers(-TINT, TINT + 1, 3))


def paint(picture: Image.Image, thing: Thing, rgb: Rgb) -> None:
    """Draw ``thing`` onto ``picture`` with smooth edges."""
    x, y, r = thing.x * picture.width, thing.y * picture.height, thing.r * min(picture.size)
    left, top, side = math.floor(x - r) - 1, math.floor(y - r) - 1, 2 * math.ceil(r) + 3
    mask = Image.new("L", (side * OVERSAMPLING, side * OVERSAMPLING))
    _outline(ImageDraw.Draw(mask), thing.shape, (x - left) * OVERSAMPLING, (y - top) * OVERSAMPLING, r * OVERSAMPLING)
    picture.paste(rgb, (left, top), mask.reduce(OVERSAMPLING))


def _outline(pen: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float) -> None:
    """Fill ``shape`` within the square of half side ``r`` around (x, y)."""
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
    elif shape == "square":
        pen.rectangle((x - 0.88 * r, y - 0.88 * r, x + 0.88 * r, y + 0.88 * r), fill=255)  # a circle's area
    elif shape == "triangle":
        pen.polygon([(x, y - r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)], fill=255)
    else:
        corners = ((math.pi * i / 5, r if i % 2 == 0 else 0.42 * r) for i in range(10))
        pen.polygon([(x + d * math.sin(a), y - d * math.cos(a)) for a, d in corners], fill=255)


def _through_jpeg(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=int(rng.integers(60, 91)), subsampling=0)
    return Image.open(file).convert("RGB")


def unique_things(scene: Scene) -> list[Thing]:
    """The things whose color and shape together name them without doubt."""
    looks = [thing.look for thing in scene.things]
    return [thing for thing in scene.things if looks.count(thing.look) == 1]


def distinct_turns(n_turns: int, new_turn: Callable[[], Turn], first: Sequence[Turn] = ()) -> list[Turn]:
    """``first``, then new turns up to ``n_turns``; a question is repeated only if 32 attempts found no other."""
    turns = list(first)[:n_turns]
    while len(turns) < n_turns:
        asked = {turn.question for turn in turns}
        attempts = (new_turn() for _ in range(32))
        turns.append(next((turn for turn in attempts if turn.question not in asked), None) or new_turn())
    return turns
