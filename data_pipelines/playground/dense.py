"""Pictures labelled place by place: what a vision tower is warmed up on before a language model reads from it.

Every picture is cut into the tower's grid, and every cell is told what stands there: the color, shape and size of the
thing in its ninth of a scene, the name of the object that covers its middle, the letters on it, or of which mark of a
chart it is a part. Dense labels teach a tower in minutes what answers in words, a few bits a picture, would take days
to.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from data_pipelines.playground import canvas, charts, documents, objects, reading
from data_pipelines.playground.base import Item, Split, pick
from data_pipelines.playground.letters import GLYPHS, SLOTS, Letters
from data_pipelines.playground.scene import COLORS, MAX_THINGS, SHAPES, SIZES, draw, random_scene
from data_pipelines.playground.words import word

IGNORED = -100  # the label of places that a picture says nothing about
MARKS = (*charts.NAMED, *(label for family in charts.LABELS for label in family))
LEADING = (1.2, 1.9)  # line height in em, fewest and most
QUARTERS = 4  # a chart's marks can be narrower than a cell, but not than half of one
FINE = 8  # how much finer than the grid a chart's zones are drawn
CHUNKS = {1: 10.5, 2: 4.8}  # pieces of text on a line: the widest piece in em


@dataclass(frozen=True)
class Label:
    """What is told of a cell: ``slots`` labels, each 0 for nothing or one more than an index of ``classes``."""

    classes: int
    slots: int = 1


def labels() -> dict[str, Label]:
    """Every label a cell can have."""
    scene = {"color": Label(len(COLORS)), "shape": Label(len(SHAPES)), "size": Label(len(SIZES))}
    return {
        **scene,
        "object": Label(len(objects.things())),
        "glyph": Label(len(GLYPHS), SLOTS),
        "cover": Label(len(GLYPHS), SLOTS),
        "mark": Label(len(MARKS), QUARTERS),
        "value": Label(charts.TOP, QUARTERS),
        "rank": Label(3, QUARTERS),  # smallest, between, largest
    }


Labelled = tuple[Image.Image, dict[str, np.ndarray]]  # a picture, and by name of label int64 [h * w, slots]


def scene_page(rng: np.random.Generator, split: Split, grid: tuple[int, int], max_side: int) -> Labelled:
    """A scene of 0 to 9 things; a cell tells of the ninth of the picture that its middle lies in."""
    scene = random_scene(rng, split, int(rng.integers(0, MAX_THINGS + 1)), max_side)
    ninths = {name: np.zeros((3, 3), np.int64) for name in ("color", "shape", "size")}
    for thing in scene.things:
        for name, words in (("color", tuple(COLORS)), ("shape", SHAPES), ("size", SIZES)):
            ninths[name][thing.row, thing.column] = 1 + words.index(getattr(thing, name))
    rows, columns = (((np.arange(n) + 0.5) * 3 / n).astype(int) for n in grid)
    found = {name: ninth[rows][:, columns].reshape(-1, 1) for name, ninth in ninths.items()}
    return draw(scene, rng), found


def object_page(rng: np.random.Generator, split: Split, grid: tuple[int, int], max_side: int) -> Labelled:
    """One to four objects; a cell tells which one covers its middle."""
    item = objects.make(rng, split, 1, max_side)
    picture = item.media[0]
    found = np.zeros(grid, np.int64)
    ys, xs = ((np.arange(n) + 0.5) / n * side for n, side in zip(grid, (picture.height, picture.width), strict=True))
    for thing in item.meta["objects"]:
        left, top, right, bottom = thing["box"]
        inside = ((ys >= top) & (ys < bottom))[:, None] & ((xs >= left) & (xs < right))[None]
        found[inside] = 1 + thing["number"]
    return picture, {"object": found.reshape(-1, 1)}


def glyph_page(rng: np.random.Generator, split: Split, grid: tuple[int, int], max_side: int) -> Labelled:
    """One to seven lines of words, names and numbers, mostly small; slots tell letters by middle and by cover."""
    paper = canvas.style(rng, split)
    lines = [_line(rng, split, paper.font) for _ in range(int(rng.integers(1, 8)))]
    leading = rng.uniform(*LEADING)
    leading = min(leading, (canvas.LIMIT - 0.4) / len(lines))
    widest = max(sum(canvas.width_em(piece, paper.font) + 0.6 for piece in line) for line in lines)
    width, height, em = canvas.frame(rng, widest + 0.3, leading * len(lines) + 0.3, max_side)
    picture = canvas.blank(width, height, paper)
    pen, face = ImageDraw.Draw(picture), canvas.font(paper.font, em)
    top = rng.uniform(0.15 * em, max(0.15 * em, height - (leading * len(lines) + 0.15) * em))
    found = Letters(grid, width, height, face)
    for number, line in enumerate(lines):
        y = top + (number + 0.5) * leading * em
        for x, piece in _spread(rng, line, paper.font, em, width):
            pen.text((x, y), piece, fill=pick(rng, (paper.ink, paper.ink, paper.accent)), font=face, anchor="lm")
            found.write(piece, x, y)
    return canvas.finish(rng, picture), found.labels()


def reading_page(rng: np.random.Generator, split: Split, grid: tuple[int, int], max_side: int) -> Labelled:
    """A picture of `reading`: one to four words or a number, of any size."""
    item = reading.make(rng, split, 1, max_side)
    return _lettered(item, item.meta["lines"], grid)


def document_page(rng: np.random.Generator, split: Split, grid: tuple[int, int], max_side: int) -> Labelled:
    """A receipt or form of `documents`."""
    item = documents.make(rng, split, 1, max_side)
    return _lettered(item, [text for row in item.meta["rows"] for text in row if text], grid)


def _lettered(item: Item, texts: list[str], grid: tuple[int, int]) -> Labelled:
    """A text family's picture with the letters of ``texts``, each drawn in its box of ``meta``."""
    picture = item.media[0]
    face = canvas.font(item.meta["font"], item.meta["em"])
    found = Letters(grid, *picture.size, face)
    for text, (left, top, _, bottom) in zip(texts, item.meta["boxes"], strict=True):
        found.write(text, left - face.getbbox(text, anchor="ls")[0], (top + bottom) / 2)
    return picture, found.labels()


def chart_page(rng: np.random.Generator, split: Split, grid: tuple[int, int], max_side: int) -> Labelled:
    """A chart; every quarter of a cell tells the name, the value and the rank of the mark in whose zone it lies."""
    item = charts.make(rng, split, 1, max_side)
    picture, values = item.media[0], item.meta["values"]
    fine = Image.new("L", (grid[1] * FINE, grid[0] * FINE))  # 1 + the number of the mark, 0 for none
    scale = fine.width / picture.width, fine.height / picture.height
    pen = ImageDraw.Draw(fine)
    for number, zone in enumerate(item.meta["zones"]):
        pen.polygon([(x * scale[0], y * scale[1]) for x, y in zone], fill=1 + number)
    quarters = np.asarray(fine)[FINE // 4 :: FINE // 2, FINE // 4 :: FINE // 2].reshape(grid[0], 2, grid[1], 2)
    marks = quarters.transpose(0, 2, 1, 3).reshape(-1, QUARTERS)  # [h * w, 4]
    ranks = [1 + (value > min(values)) + (value == max(values)) for value in values]
    names = [1 + MARKS.index(label) for label in item.meta["labels"]]
    told = {"mark": names, "value": values, "rank": ranks}
    return picture, {name: np.array([0, *found], np.int64)[marks] for name, found in told.items()}


def _line(rng: np.random.Generator, split: Split, font: str) -> list[str]:
    count = pick(rng, tuple(CHUNKS))
    return [_piece(rng, split, font, CHUNKS[count]) for _ in range(count)]


def _piece(rng: np.random.Generator, split: Split, font: str, widest: float) -> str:
    """A piece of text no wider than ``widest`` em: words, any letters, a number or a price."""
    while True:
        kind = rng.random()
        if kind < 0.45:
            case = pick(rng, (str.lower, str.title, str.upper))
            text = case(" ".join(word(rng, split) for _ in range(int(rng.integers(1, 3)))))
        elif kind < 0.6:
            text = "".join(GLYPHS[i] for i in rng.integers(0, len(GLYPHS), int(rng.integers(1, 8))))
        elif kind < 0.8:
            text = str(int(rng.integers(0, 10 ** int(rng.integers(1, 6)))))
        else:
            parts = rng.integers(0, 100, int(rng.integers(2, 4)))
            text = pick(rng, (".", ",", ":")).join(f"{int(part):02}" for part in parts)
        if canvas.width_em(text, font) <= widest:
            return text


def _spread(rng: np.random.Generator, line: list[str], font: str, em: float, width: int) -> list[tuple[float, str]]:
    """The pieces of a line with the left end of each in pixels, the spare room shared out at random."""
    needs = [(canvas.width_em(piece, font) + 0.6) * em for piece in line]
    spare = max(0.0, width - 0.2 * em - sum(needs))
    shares = rng.dirichlet(np.ones(len(line) + 1))
    starts, x = [], 0.3 * em
    for piece, need, share in zip(line, needs, shares, strict=False):
        x += spare * share
        starts.append((x, piece))
        x += need
    return starts


PAGES = {
    "scenes": scene_page,
    "objects": object_page,
    "glyphs": glyph_page,
    "reading": reading_page,
    "documents": document_page,
    "charts": chart_page,
}
