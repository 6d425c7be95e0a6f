"""Reading, charts, documents and objects: answers restated from the scene and from pixels, splits, legibility."""

import itertools
import re
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from data_pipelines.playground import canvas, charts, documents, objects, reading, words
from data_pipelines.playground.base import stream

FAMILIES = {module.FAMILY: module for module in (reading, charts, documents, objects)}
TEXTS = ("reading", "charts", "documents")
SPLITS = ("train", "heldout")
TELLING = {"everything", "ranked"}  # kinds that are asked in training only, and last


def items(family, split, count, n_turns=4, max_side=256):
    for index in range(count):
        yield FAMILIES[family].make(stream(family, split, 7, index), split, n_turns, max_side)


def holds_reading(meta, kind, slots):
    lines = meta["lines"]
    text = " ".join(lines)
    return {
        "text": text,
        "word": text,
        "number": text,
        "first_word": text.split()[0],
        "last_word": text.split()[-1],
        "first_line": lines[0],
        "second_line": lines[-1],
        "first_letter": text[:1],
        "last_letter": text[-1:],
        "first_digit": text[:1],
        "last_digit": text[-1:],
        "spell": re.sub(r"(?<=.)(?=.)", " ", text),
        "digits": str(sum(c.isdigit() for c in text)),
        "words": str(text.count(" ") + 1),
    }[kind]


def holds_charts(meta, kind, slots):
    value = dict(zip(meta["labels"], meta["values"], strict=True))
    if kind == "everything":
        return ", ".join(f"{k} {v}" for k, v in value.items() if not meta["step"] or v % meta["step"] == 0)
    a, b = (re.sub(r"^the (\w+) \w+$", r"\1", slots.get(key, "")) for key in "ab")
    if kind == "value":
        assert not meta["step"] or value[a] in range(0, 21, meta["step"]), "asked for a value nobody can read off"
        return str(value[a])
    if kind in ("compare", "larger"):
        return ("yes" if value[a] > value[b] else "no") if kind == "compare" else (a if value[a] > value[b] else b)
    if kind == "kind":
        return meta["kind"].split()[-1].removesuffix("s")
    order = sorted(value, key=value.get)
    if kind == "ranked":
        return ", ".join(order)
    return {"largest": order[-1], "smallest": order[0], "count": str(len(value))}[kind]


def holds_documents(meta, kind, slots):
    """From the rows as printed, not from the numbers behind them."""
    if kind == "everything":
        return "; ".join(" ".join(filter(None, row)) for row in meta["rows"])
    title, *rows = meta["rows"]
    printed = {key.rstrip(":").lower(): value for key, value in rows}
    if kind in ("shop", "title"):
        return title[0]
    if kind in ("date", "field"):
        return printed[slots.get("key", kind)]
    prices = {key: Fraction(value) for key, value in rows[:-1] if re.fullmatch(r"\d+\.\d\d", value)}
    if kind == "total":
        assert sum(prices.values()) == Fraction(rows[-1][1])
        return rows[-1][1]
    if kind == "dearest":
        top = max(prices.values())
        assert list(prices.values()).count(top) == 1
        return next(item for item, price in prices.items() if price == top)
    if kind == "price":
        return printed[slots["item"].lower()]
    return str(len(prices)) if kind == "items" else "yes" if slots["item"] in prices else "no"


def holds_objects(meta, kind, slots):
    scene = meta["objects"]
    if kind == "everything":
        assert len(scene) > 1
        return ", ".join(f"{entry['place']}: {entry['name']}" for entry in scene)
    if kind == "count":
        return str(len(scene))
    if kind == "present":
        return "yes" if slots["name"] in [entry["name"] for entry in scene] else "no"
    if kind in ("name", "category"):
        assert len(scene) == 1
        return scene[0][kind]
    if kind == "where":
        return next(objects.where(entry["place"]) for entry in scene if entry["name"] == slots["name"])
    return next(entry["name"] for entry in scene if slots["place"].endswith(" " + entry["place"]))


HOLDS = {"reading": holds_reading, "charts": holds_charts, "documents": holds_documents, "objects": holds_objects}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_answer_is_what_the_scene_says(family, split):
    kinds = set()
    for item in items(family, split, 80, n_turns=12):
        for turn, asked in zip(item.turns, item.meta["asked"], strict=True):
            slots = dict(asked)
            kind = slots.pop("kind")
            kinds.add(kind)
            assert turn.answer == HOLDS[family](item.meta, kind, slots), (turn, item.meta)
            assert turn.family == family
    held_back = TELLING if split == "heldout" else set()
    assert kinds == set(FAMILIES[family].PHRASINGS) - held_back, "a kind of question is never asked"


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "reading"])
def test_an_answer_that_tells_everything_comes_last(family):
    """Answers behind it could be copied from it. In `reading` the first question asks for everything."""
    for item in items(family, "train", 60, n_turns=4):
        kinds = [asked["kind"] for asked in item.meta["asked"]]
        assert not TELLING & set(kinds[:-1])
    last = [item.meta["asked"][-1]["kind"] in TELLING for item in items(family, "train", 200, n_turns=1)]
    assert 0.2 < sum(last) / len(last) < 0.9


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_questions_are_worded_from_the_splits_own_phrasings(family, split):
    phrasings = FAMILIES[family].PHRASINGS
    assert all(len(set(wordings)) == len(wordings) >= 6 for wordings in phrasings.values())
    for item in items(family, split, 60):
        for turn, asked in zip(item.turns, item.meta["asked"], strict=True):
            kept = {wording.format(**asked) for wording in phrasings[asked["kind"]][2::3]}
            assert (turn.question in kept) == (split == "heldout")


@pytest.mark.parametrize("family", ["documents", "reading"])
def test_wordings_of_training_alone_are_new_and_never_held_out(family):
    module = FAMILIES[family]
    asked = {split: Counter() for split in SPLITS}
    for kind, wordings in module.TRAINING_ONLY.items():
        assert not set(wordings) & set(module.PHRASINGS[kind]) and len(set(wordings)) == len(wordings)
        for split in SPLITS:
            for item in items(family, split, 200):
                for turn, fact in zip(item.turns, item.meta["asked"], strict=True):
                    further = fact["kind"] == kind and turn.question in {w.format(**fact) for w in wordings}
                    asked[split][kind] += further
    assert not asked["heldout"].total() and set(+asked["train"]) == set(module.TRAINING_ONLY)


@settings(max_examples=30, deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    split=st.sampled_from(SPLITS),
    seed=st.integers(0, 2**31),
    n_turns=st.integers(1, 20),
    max_side=st.integers(96, 700),
)
def test_an_item_is_a_function_of_its_stream_and_keeps_to_its_size(family, split, seed, n_turns, max_side):
    first, second = (FAMILIES[family].make(stream(family, split, seed, 3), split, n_turns, max_side) for _ in "ab")
    (image,), (again,) = first.media, second.media
    assert image.tobytes() == again.tobytes() and first.turns == second.turns and first.meta == second.meta
    assert image.mode == "RGB" and len(first.turns) == n_turns and first.kind == "image"
    assert all(96 <= side <= min(640, max_side) for side in image.size)


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_vary(family):
    sizes = [item.media[0].size for item in items(family, "train", 120, n_turns=1, max_side=640)]
    sides = np.array([max(size) for size in sizes])
    assert sides.min() < 160 and sides.max() > 500
    assert any(w > 1.3 * h for w, h in sizes) and any(h > 1.1 * w for w, h in sizes)


@pytest.mark.parametrize("family", TEXTS)
def test_fonts_of_the_splits_differ(family):
    train, heldout = ({item.meta["font"] for item in items(family, split, 160, n_turns=1)} for split in SPLITS)
    assert train == set(canvas.FONTS["train"]) and heldout == set(canvas.FONTS["heldout"])
    assert len(heldout) >= 2 and not train & heldout


def test_kept_words_are_never_read_in_training():
    kept, common = (set(words.KEPT[split]) for split in ("heldout", "train"))
    assert not kept & common and len(words.WORDS) == len(set(words.WORDS)) >= 700
    assert all(re.fullmatch("[a-z]{2,9}", word) for word in words.WORDS)
    lines = [
        [line.lower() for item in items("reading", split, 200, 1) for line in item.meta["lines"]] for split in SPLITS
    ]
    train, heldout = (set(" ".join(of_split).split()) for of_split in lines)
    assert not train & kept
    assert heldout & kept and heldout & common


def test_kept_pairs_and_shops_are_never_trained_on():
    for split in SPLITS:
        for item in items("objects", split, 100, n_turns=1):
            numbers = [entry["number"] for entry in item.meta["objects"]]
            kept = [(a + b) % 5 == 0 for a, b in itertools.combinations(numbers, 2)]
            assert any(kept) == (split == "heldout" and len(numbers) > 1)
    pages = [[item.meta for item in items("documents", split, 120, n_turns=1)] for split in SPLITS]
    train, heldout = ({page["title"] for page in of_split if page["kind"] == "receipt"} for of_split in pages)
    assert train and heldout and not train & heldout


@pytest.fixture
def written(monkeypatch):
    """Every text drawn, as (box, text), in a list that the fixture returns."""
    texts, draw_text = [], ImageDraw.ImageDraw.text

    def text(self, xy, text, **settings):
        texts.append((self.textbbox(xy, text, font=settings["font"], anchor=settings["anchor"]), text))
        draw_text(self, xy, text, **settings)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("family", TEXTS)
def test_text_is_whole_apart_and_large_enough_after_the_squash(written, family, split):
    for item in items(family, split, 100, n_turns=1, max_side=400):
        (image,) = item.media
        for (left, top, right, bottom), text in written:
            assert left >= 0 and top >= 0 and right <= image.width and bottom <= image.height, (text, item.meta)
            if text[0].isupper() or text[0].isdigit():
                assert (bottom - top) * 192 / image.height >= 9.5, (text, item.meta)
        for ((l1, t1, r1, b1), one), ((l2, t2, r2, b2), two) in itertools.combinations(written, 2):
            assert min(r1, r2) <= max(l1, l2) + 1 or min(b1, b2) <= max(t1, t2) + 1, (one, two, item.meta)
        written.clear()


@pytest.mark.parametrize("family", ("reading", "documents"))
def test_ink_stands_out_from_paper_after_the_squash(family):
    for item in items(family, "train", 60, n_turns=1, max_side=640):
        (image,) = item.media
        squashed = np.asarray(image.resize((192, 192), Image.Resampling.BICUBIC), np.float64) / 255
        light = np.where(squashed <= 0.04, squashed / 12.92, ((squashed + 0.055) / 1.055) ** 2.4)
        light = light @ [0.2126, 0.7152, 0.0722]  # [192, 192]
        for box in item.meta["boxes"]:
            scale = np.tile([192 / image.width, 192 / image.height], 2)
            x0, y0, x1, y1 = (np.array(box) * scale).round().astype(int)
            low, high = np.quantile(light[y0 : y1 + 1, x0 : x1 + 1], [0.03, 0.97])
            assert (high + 0.05) / (low + 0.05) > 2, item.meta


def test_painted_areas_order_the_values(monkeypatch):
    """Bars are equally wide and slices are sectors, so more pixels of a color mean a larger value."""
    monkeypatch.setattr(canvas, "finish", lambda rng, image: image)
    checked = 0
    for item in items("charts", "train", 200, n_turns=1, max_side=400):
        if not item.meta["by_color"]:
            continue
        pixels = np.asarray(item.media[0]).reshape(-1, 3)  # [H W, 3]
        area = [(pixels == charts.NAMED[label]).all(1).sum() for label in item.meta["labels"]]
        for (a, va), (b, vb) in itertools.combinations(zip(area, item.meta["values"], strict=True), 2):
            if abs(va - vb) > 3:  # outlines and numbers cover a little
                assert (a > b) == (va > vb), item.meta
                checked += 1
    assert checked > 100


def test_things_stand_where_their_places_say():
    places = {0: {-1: "left", 0: "middle", 1: "right"}, 1: {-1: "top", 0: "middle", 1: "bottom"}}
    for item in items("objects", "heldout", 150, n_turns=1):
        size, layout = item.media[0].size, item.meta["layout"]
        for entry in item.meta["objects"]:
            left, top, right, bottom = entry["box"]
            assert 0 <= left and 0 <= top and right <= size[0] and bottom <= size[1]
            x, y = (left + right) / 2 / size[0], (top + bottom) / 2 / size[1]
            column = round((x - 0.5) * 3) if layout == "row of three" else 1 if x > 0.5 else -1
            words_of = {
                "one": ["middle"],
                "column of two": [places[1][1 if y > 0.5 else -1]],
                "quadrants": [places[1][1 if y > 0.5 else -1], places[0][column]],
            }.get(layout, [places[0][column]])
            assert entry["place"] == " ".join(words_of), (entry, size)


def test_a_thing_changes_the_paper_under_it(monkeypatch):
    monkeypatch.setattr(canvas, "finish", lambda rng, image: image)
    for item in items("objects", "heldout", 100, n_turns=1):
        papers = np.array(item.meta["papers"], int)  # [P, 3]
        for entry in item.meta["objects"]:
            pixels = np.asarray(item.media[0].crop(entry["box"]), int)[:, :, None]  # [H, W, 1, 3]
            far = np.abs(pixels - papers).max(-1).min(-1) > 25
            assert far.mean() > 0.1, (entry, item.meta["papers"])


def test_the_sheet_has_a_picture_and_a_name_of_its_own_for_each_thing():
    things = objects.things()
    assert len({thing.name for thing in things}) == len(things) >= 120
    assert len({thing.tile.tobytes() for thing in things}) == len(things)
    assert {thing.category for thing in things} == {"animal", "food", "vehicle", "thing"}
    for thing in things:
        alpha = np.asarray(thing.tile.getchannel("A"))
        assert (alpha > 200).mean() > 0.05, thing.name
        assert len(thing.name.split()) <= 2 and thing.name == thing.name.lower()
    total = sum(path.stat().st_size for path in objects.ASSETS.iterdir() if path.name.startswith("emoji"))
    assert total <= 2 * 2**20 and "Apache License" in (objects.ASSETS / "NOTICE").read_text()
    assert objects.BARE <= {thing.name for thing in things}
