"""Objects: pictures of things with plain names, one alone or up to four in places that questions ask about.

The pictures are Noto Emoji artwork (see ``assets/NOTICE``). Held out: the paper's pattern, wider scales and turns, the
phrasings, and pairs: two things whose numbers add up to a multiple of five are never seen together in training.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageStat

from data_pipelines.playground import canvas
from data_pipelines.playground.base import Item, Split, pick
from data_pipelines.playground.words import Fact, ask

FAMILY = "objects"
ASSETS = Path(__file__).parent / "assets"
ANGLE = {"train": 11.0, "heldout": 15.0}  # degrees either way
ROOM = 1.25  # a tile's side with its empty rim, of the picture's: turned by 15 degrees its corners still fit
SCALE = {"train": (0.6, 0.92), "heldout": (0.5, 1.0)}  # side of a thing, of its cell's shorter side
PAPERS = {"train": ("plain", "gradient", "noise"), "heldout": ("stripes", "halves", "plain")}

# Names that take no article.
BARE = frozenset(
    """grapes cherries corn broccoli fries bread cheese popcorn coffee beer chocolate scissors jeans socks glasses fire
    """.split()
) | {"ice cream"}

# Layouts: the place names of the cells, and each cell as [column, row] of a grid of [columns, rows].
LAYOUTS = {
    "one": ((1, 1), {"middle": (0, 0)}),
    "row of two": ((2, 1), {"left": (0, 0), "right": (1, 0)}),
    "column of two": ((1, 2), {"top": (0, 0), "bottom": (0, 1)}),
    "row of three": ((3, 1), {"left": (0, 0), "middle": (1, 0), "right": (2, 0)}),
    "quadrants": (
        (2, 2),
        {"top left": (0, 0), "top right": (1, 0), "bottom left": (0, 1), "bottom right": (1, 1)},
    ),
}

PHRASINGS = {
    "name": (
        "What is this?",
        "What does the picture show?",
        "What do you see?",
        "What is shown here?",
        "What is in the picture?",
        "Which object is this?",
        "Name the object.",
        "What object is in the image?",
        "What can be seen here?",
    ),
    "place": (
        "What is {place}?",
        "Which object is {place}?",
        "What do you see {place}?",
        "What is shown {place}?",
        "Name the object {place}.",
        "What can be seen {place}?",
        "What object is {place}?",
        "What is there {place}?",
        "What does the picture show {place}?",
    ),
    "where": (
        "Where is the {name}?",
        "In which place is the {name}?",
        "Where do you see the {name}?",
        "Where in the picture is the {name}?",
        "Say where the {name} is.",
        "Where can the {name} be seen?",
    ),
    "everything": (
        "List all objects with their places.",
        "What is where in the picture?",
        "Name every object and its place.",
        "Tell me each place and what is there.",
        "Go through the places: what is at each?",
        "Name all objects, place by place.",
    ),
    "count": (
        "How many objects are there?",
        "How many objects do you see?",
        "How many things are shown?",
        "Count the objects.",
        "How many things are in the picture?",
        "What is the number of objects?",
    ),
    "present": (
        "Is there a picture of {a_name}?",
        "Do you see {a_name}?",
        "Does the picture show {a_name}?",
        "Is {a_name} shown?",
        "Is there {a_name} in the picture?",
        "Can you see {a_name} here?",
    ),
    "category": (
        "Is this an animal, a food, a vehicle or a thing?",
        "What kind of object is it: animal, food, vehicle or thing?",
        "Which is it: animal, food, vehicle or thing?",
        "Animal, food, vehicle or thing?",
        "Does it show an animal, a food, a vehicle or a thing?",
        "What is shown: animal, food, vehicle or thing?",
    ),
}


@dataclass(frozen=True)
class Thing:
    """A picture of the sheet: its number, plain name, category, RGBA tile (with a rim), mean color where opaque."""

    number: int
    name: str
    category: str
    tile: Image.Image
    mean: canvas.Color


@lru_cache(maxsize=1)
def things() -> tuple[Thing, ...]:
    """Every thing of the sheet, read once."""
    listing = json.loads((ASSETS / "emoji.json").read_text())
    sheet = Image.open(ASSETS / "emoji.png").convert("RGBA")
    side, columns = listing["tile"], listing["columns"]
    found = []
    for i, entry in enumerate(listing["objects"]):
        x, y = i % columns * side, i // columns * side
        tile = Image.new("RGBA", (round(side * ROOM), round(side * ROOM)))
        tile.paste(sheet.crop((x, y, x + side, y + side)), ((tile.width - side) // 2, (tile.height - side) // 2))
        mean = tuple(round(c) for c in ImageStat.Stat(tile.convert("RGB"), tile.getchannel("A")).mean)
        found.append(Thing(i, entry["name"], entry["category"], tile, mean))
    return tuple(found)


def make(rng: np.random.Generator, split: Split, n_turns: int, max_side: int) -> Item:
    """One picture of 1 to 4 things and ``n_turns`` questions; the first asks what a thing is."""
    layout = pick(rng, ("one", "one", "row of two", "column of two", "row of three", "quadrants"))
    (columns, rows), cells = LAYOUTS[layout]
    count = int(rng.integers(2, 5)) if layout == "quadrants" else len(cells)
    chosen = _choose(rng, split, count)
    places = [list(cells)[i] for i in sorted(rng.permutation(len(cells))[:count].tolist())]
    width, height = _size(rng, columns, rows, max_side)
    image, papers = _paper(rng, split, width, height, chosen)
    boxes = []
    for thing, place in zip(chosen, places, strict=True):
        column, row = cells[place]
        cell = (column * width // columns, row * height // rows, width // columns, height // rows)
        boxes.append(_stick(rng, split, image, thing, cell))
    facts = _facts(rng, layout, dict(zip(places, chosen, strict=True)))
    told = dict(zip(places, chosen, strict=True))
    everything = Fact("everything", ", ".join(f"{place}: {thing.name}" for place, thing in told.items()))
    turns, asked = ask(rng, split, FAMILY, PHRASINGS, facts, n_turns, None if layout == "one" else everything)
    scene = [
        {"name": thing.name, "category": thing.category, "number": thing.number, "place": place, "box": box}
        for thing, place, box in zip(chosen, places, boxes, strict=True)
    ]
    meta: dict[str, Any] = {"layout": layout, "objects": scene, "papers": papers, "asked": asked}
    return Item([canvas.finish(rng, image)], "image", turns, meta)


def kept_pair(a: int, b: int) -> bool:
    """Whether things number ``a`` and ``b`` appear together in held-out pictures only."""
    return (a + b) % 5 == 0


def alike(a: Thing, b: Thing) -> bool:
    """Whether two names share a word: a teddy bear beside a bear would make 'the bear' mean either."""
    return bool(set(a.name.split()) & set(b.name.split()))


def _choose(rng: np.random.Generator, split: Split, count: int) -> list[Thing]:
    """``count`` different things: no kept pair among them in training, exactly their first two one held out."""
    chosen: list[Thing] = []
    while len(chosen) < count:
        new = pick(rng, things())
        kept = [kept_pair(new.number, old.number) for old in chosen]
        fits = len(chosen) != 1 or kept[0] if split == "heldout" else not any(kept)
        if fits and not any(alike(new, old) for old in chosen):
            chosen.append(new)
    return [chosen[i] for i in rng.permutation(count).tolist()]


def _size(rng: np.random.Generator, columns: int, rows: int, max_side: int) -> tuple[int, int]:
    """A canvas as long as its grid asks, within a third either way."""
    aspect = (columns / rows) ** 0.7 * float(np.exp(rng.uniform(-0.33, 0.33)))
    limit = min(canvas.MAX_SIDE, max_side)
    longest = float(np.exp(rng.uniform(np.log(canvas.MIN_SIDE), np.log(limit))))
    sides = (longest * min(1.0, aspect), longest / max(1.0, aspect))
    width, height = (min(limit, max(canvas.MIN_SIDE, round(side))) for side in sides)
    return width, height


def _paper(
    rng: np.random.Generator, split: Split, width: int, height: int, chosen: list[Thing]
) -> tuple[Image.Image, list[canvas.Color]]:
    """A page no thing on it blends into, by its mean color; and the page's one or two colors."""
    kind = pick(rng, PAPERS[split])
    first, second = _colors(rng, chosen)
    page = Image.new("RGB", (width, height), first)
    if kind == "plain":
        return page, [first]
    if kind == "noise":
        return canvas.add_grain(rng, canvas.add_grain(rng, page)), [first]
    if kind == "gradient":
        page.paste(second, (0, 0), Image.linear_gradient("L").resize((width, height)))
        return page, [first, second]
    draw = ImageDraw.Draw(page)
    if kind == "halves":
        draw.polygon([(0, height), (width, height), (width, 0)], fill=second)
    else:
        step = max(4, width // int(rng.integers(6, 13)))
        for x in range(0, width, 2 * step):
            draw.rectangle((x, 0, x + step - 1, height), fill=second)
    return page, [first, second]


def _colors(rng: np.random.Generator, chosen: list[Thing]) -> tuple[canvas.Color, canvas.Color]:
    """A paper and a slightly different second color for its pattern, far from the things' mean colors."""
    best, farthest = (255, 255, 255), -1.0
    for _ in range(4):
        low, high = ((170, 255), (0, 70))[int(rng.random() < 0.3)]
        paper = tuple(rng.integers(low, high, 3, endpoint=True).tolist())
        distance = min(sum(abs(a - b) for a, b in zip(paper, thing.mean, strict=True)) for thing in chosen)
        if distance > farthest:
            best, farthest = paper, distance
        if distance > 200:
            break
    shift = rng.integers(-35, 36, 3).tolist()
    return best, tuple(min(255, max(0, c + s)) for c, s in zip(best, shift, strict=True))


def _stick(
    rng: np.random.Generator, split: Split, image: Image.Image, thing: Thing, cell: tuple[int, int, int, int]
) -> list[int]:
    """Paste ``thing`` somewhere in its cell (x, y, width, height), turned, mirrored and scaled; returns its box."""
    x, y, width, height = cell
    side = max(16, int(rng.uniform(*SCALE[split]) * min(width, height)))
    tile = thing.tile
    if rng.random() < 0.5:
        tile = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # Turned at the tile's own size and only then scaled, which is many times quicker on a large canvas.
    tile = tile.rotate(rng.uniform(-ANGLE[split], ANGLE[split]), Image.Resampling.BICUBIC)
    whole = round(side * ROOM)
    tile = tile.resize((whole, whole), Image.Resampling.BICUBIC if side < 200 else Image.Resampling.BILINEAR)
    left = x + int(rng.integers(0, max(1, width - side + 1)))
    top = y + int(rng.integers(0, max(1, height - side + 1)))
    rim = (whole - side) // 2
    image.paste(tile, (left - rim, top - rim), tile)
    return [left, top, left + side, top + side]


def where(place: str) -> str:
    """A place as a phrase: ``on the left``, ``in the middle``, ``at the top right``."""
    return {"left": "on the left", "right": "on the right", "middle": "in the middle"}.get(place, f"at the {place}")


def a_name(name: str) -> str:
    """A name with its article; none before plurals and stuffs."""
    if name in BARE:
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _facts(rng: np.random.Generator, layout: str, scene: dict[str, Thing]) -> list[Fact]:
    facts = [Fact("count", str(len(scene)))]
    inside = pick(rng, list(scene.values()))
    absent = pick(rng, [new for new in things() if not any(alike(new, thing) for thing in scene.values())])
    facts += [Fact("present", "yes", {"a_name": a_name(inside.name), "name": inside.name})]
    facts += [Fact("present", "no", {"a_name": a_name(absent.name), "name": absent.name})]
    if layout == "one":
        return [Fact("name", inside.name), Fact("category", inside.category), *facts]
    asked = [Fact("place", thing.name, {"place": where(place)}) for place, thing in scene.items()]
    first = int(rng.integers(len(asked)))
    located = [Fact("where", where(place), {"name": thing.name}) for place, thing in scene.items()]
    return [asked[first], *asked[:first], *asked[first + 1 :], *located, *facts]
