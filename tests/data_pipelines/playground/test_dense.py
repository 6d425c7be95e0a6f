"""Dense labels against the pixels they describe: the color that a cell names is there, and a letter has ink."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from data_pipelines.playground import canvas, charts, dense, documents, objects, reading
from data_pipelines.playground.letters import GLYPHS, SUBCOLUMNS, SUBROWS, Letters
from data_pipelines.playground.scene import COLORS, POSITIONS

GRID = (6, 6)


def pages(kind: str, count: int = 40, split="train", grid=GRID, side: int = 320):
    return [dense.PAGES[kind](np.random.default_rng([5, i]), split, grid, side) for i in range(count)]


def near(picture: Image.Image, color) -> np.ndarray:
    """Where a picture is within 45 levels of ``color`` in every channel."""
    return (np.abs(np.asarray(picture, np.int16) - np.int16(color)) <= 45).all(-1)


def test_a_cell_names_the_color_of_its_ninth_and_of_nothing_else():
    for picture, found in pages("scenes"):
        named = found["color"].reshape(GRID)
        for ninth in range(len(POSITIONS)):
            row, column = divmod(ninth, 3)
            told = set(named[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flat)
            assert len(told) == 1  # the four cells of a ninth say the same
            w, h = picture.size
            box = (column * w // 3, row * h // 3, (column + 1) * w // 3, (row + 1) * h // 3)
            seen = {i for i, color in enumerate(COLORS.values(), 1) if near(picture.crop(box), color).sum() > 6}
            assert told - {0} <= seen
            assert seen or told == {0}


def test_color_shape_and_size_are_told_of_the_same_cells():
    for _, found in pages("scenes"):
        assert ((found["color"] > 0) == (found["shape"] > 0)).all()
        assert ((found["color"] > 0) == (found["size"] > 0)).all()


def test_an_object_is_told_where_it_covers_the_middle_of_a_cell():
    for i, (picture, found) in enumerate(pages("objects")):
        meta = objects.make(np.random.default_rng([5, i]), "train", 1, 320).meta
        told = found["object"].reshape(GRID)
        for (row, column), number in np.ndenumerate(told):
            x, y = (column + 0.5) / 6 * picture.width, (row + 0.5) / 6 * picture.height
            over = [
                t["number"]
                for t in meta["objects"]
                if t["box"][0] <= x < t["box"][2] and t["box"][1] <= y < t["box"][3]
            ]
            assert (number - 1 in over) if number else not over


def slots_of(found, name: str) -> np.ndarray:
    """A label of slots as one map, [12, 36]."""
    return found[name].reshape(*GRID, SUBROWS, SUBCOLUMNS).transpose(0, 2, 1, 3).reshape(12, 36)


@pytest.mark.parametrize("kind", ["glyphs", "reading", "documents"])
@pytest.mark.parametrize("name", ["glyph", "cover"])
def test_letters_are_told_where_there_is_ink(kind, name):
    """Around a slot that names a letter the picture varies."""
    for picture, found in pages(kind):
        slots = slots_of(found, name)
        gray = np.asarray(picture.convert("L").resize((36 * 8, 12 * 16), Image.Resampling.BILINEAR), np.int16)
        assert (slots > 0).any()
        for row, column in np.argwhere(slots > 0):
            around = gray[max(0, row * 16 - 8) : row * 16 + 24, max(0, column * 8 - 8) : column * 8 + 16]
            assert around.max() - around.min() > 40


@pytest.mark.parametrize("kind", ["reading", "documents"])
def test_a_page_tells_the_letters_of_its_own_text(kind):
    """All of them where each has a slot of its own; small ones may share one, and one of them is told."""
    family, whole = {"reading": reading, "documents": documents}[kind], 0
    for i, (_, found) in enumerate(pages(kind)):
        meta = family.make(np.random.default_rng([5, i]), "train", 1, 320).meta
        lines = meta["lines"] if kind == "reading" else [text for row in meta["rows"] for text in row]
        drawn = Counter(letter for letter in "".join(lines) if letter in GLYPHS)
        told = Counter(GLYPHS[v - 1] for v in found["glyph"].flatten() if v)
        assert told <= drawn
        assert told.total() >= 0.7 * drawn.total()
        whole += told == drawn
    assert whole >= 8


def test_a_large_letter_covers_slots_beside_its_middle():
    letters = Letters(GRID, 192, 192, canvas.font("DejaVuSans", 96))
    letters.write("H", 20, 96)
    told = letters.labels()
    width = canvas.font("DejaVuSans", 96).getlength("H")
    rows, columns = np.nonzero(slots_of(told, "cover"))
    assert (columns.min(), columns.max()) == (round(20 * 36 / 192), round((20 + width) * 36 / 192) - 1)
    assert (rows.min(), rows.max()) == (round((96 - 0.35 * 96) / 16), round((96 + 0.35 * 96) / 16) - 1)
    assert set(told["cover"].flat) == {0, 1 + GLYPHS.index("H")}
    assert np.argwhere(slots_of(told, "glyph")).tolist() == [[6, int((20 + width / 2) * 36 / 192)]]


def test_letters_stand_in_reading_order(monkeypatch):
    """A line drawn alone reads back from its slots, left to right."""
    monkeypatch.setattr(dense, "_line", lambda rng, split, font: ["Ab3.d"])
    monkeypatch.setattr(
        canvas, "style", lambda rng, split: canvas.Style((255,) * 3, (255,) * 3, (0,) * 3, (0,) * 3, "DejaVuSans")
    )
    for seed in range(10):
        rng = np.random.default_rng(seed)
        monkeypatch.setattr(dense, "pick", lambda rng, options: options[0])
        _, found = dense.glyph_page(rng, "train", GRID, 320)
        lines = ["".join(GLYPHS[v - 1] for v in row if v) for row in slots_of(found, "glyph")]
        assert set(lines) == {"", "Ab3.d"}


def test_every_mark_of_a_chart_is_told_with_its_value_and_rank():
    for i in range(40):
        item = charts.make(np.random.default_rng([5, i]), "train", 1, 320)
        _, found = dense.chart_page(np.random.default_rng([5, i]), "train", (6, 6), 320)
        told = set(zip(*(found[name].flatten().tolist() for name in ("mark", "value", "rank")))) - {(0, 0, 0)}
        ordered = sorted(item.meta["values"])
        ranks = {ordered[0]: 1, **dict.fromkeys(ordered[1:-1], 2), ordered[-1]: 3}
        pairs = zip(item.meta["labels"], item.meta["values"])
        assert told == {(1 + dense.MARKS.index(label), value, ranks[value]) for label, value in pairs}


def test_what_is_painted_in_a_color_is_the_mark_of_that_name():
    right = []
    for i in range(60):
        item = charts.make(np.random.default_rng([5, i]), "train", 1, 320)
        if not item.meta["by_color"]:
            continue
        picture, found = dense.chart_page(np.random.default_rng([5, i]), "train", (6, 6), 320)
        marks = found["mark"].reshape(6, 6, 2, 2).transpose(0, 2, 1, 3).reshape(12, 12)
        for row, column in np.ndindex(12, 12):
            at = (int((column + 0.5) / 12 * picture.width), int((row + 0.5) / 12 * picture.height))
            for label, color in charts.NAMED.items():
                if max(abs(a - b) for a, b in zip(picture.convert("RGB").getpixel(at), color)) < 12:
                    right.append(dense.MARKS[marks[row, column] - 1] == label)
    assert len(right) > 200 and np.mean(right) > 0.98  # on the border of two slices rounding decides


@pytest.mark.parametrize("kind", dense.PAGES)
def test_pages_are_reproducible_and_fit_any_grid(kind):
    one, two = pages(kind, 3), pages(kind, 3)
    for (a, labels), (b, again) in zip(one, two):
        assert a.tobytes() == b.tobytes()
        assert all((labels[name] == again[name]).all() for name in labels)
    known = dense.labels()
    for _, labels in pages(kind, 3, "heldout", (4, 5), 96):
        for name, values in labels.items():
            assert values.shape == (20, known[name].slots)
            assert 0 <= values.min() and values.max() <= known[name].classes
