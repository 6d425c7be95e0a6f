"""The scene families against an independent reading of their questions.

Every answer is derived again from the words of the question and the item's ``meta`` alone, never with the code that
made it; pixels are compared with the names they were drawn for.
"""

import json
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.playground import (
    attributes,
    counting,
    describe,
    multi_image,
    relations,
    scene_chat,
    scene_json,
    video,
)
from data_pipelines.playground.base import stream
from data_pipelines.playground.scene import COLORS, HELD_OUT, draw, random_scene

FAMILIES = {
    "attributes": attributes,
    "counting": counting,
    "relations": relations,
    "describe": describe,
    "json": scene_json,
    "scene_chat": scene_chat,
    "multi_image": multi_image,
    "video": video,
}
SPLITS = ("train", "heldout")
SHAPES = ("circle", "square", "triangle", "star")
SIZES = ("small", "medium", "large")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
PLACES = tuple("center" if (r, c) == ("middle", "center") else f"{r} {c}" for r in ROWS for c in COLUMNS)
ORDINALS = ("first", "second", "third", "fourth")
KEYS = ("shape", "color", "position", "size")
PLACE = re.compile("|".join(sorted(PLACES, key=len, reverse=True)))
NAME = re.compile(rf"({'|'.join(COLORS)}) ({'|'.join(SHAPES)})")


def items(family, split, n, n_turns=6, max_side=160):
    make = FAMILIES[family].make
    return [make(stream(family, split, 7, i), split, n_turns, max_side) for i in range(n)]


def words(question, vocabulary):
    return [w.removesuffix("s") for w in re.findall(r"[a-z]+", question.lower()) if w.removesuffix("s") in vocabulary]


def grid(thing):
    index = PLACES.index(thing["position"])
    return index // 3, index % 3


def matching(things, question):
    color, shape = words(question, COLORS), words(question, SHAPES)
    return [t for t in things if t["color"] in (color or COLORS) and t["shape"] in (shape or SHAPES)]


def counted(things, question):
    return len(matching(things, question))


def counting_answer(question, things):
    if re.search("where|place", question.lower()):
        return ", ".join(t["position"] for t in matching(things, question)) or "nowhere"
    return str(counted(things, question))


def told(things, form="At the {position} is a {size} {color} {shape}."):
    return " ".join(form.format(**t) for t in things)


def named(things, color, shape):
    found = [t for t in things if (t["color"], t["shape"]) == (color, shape)]
    assert len(found) == 1, f"{color} {shape} does not name one thing"
    return found[0]


def attributes_answer(question, answer, things):
    kind = next(k for k, vocabulary in (("color", COLORS), ("shape", SHAPES), ("size", SIZES)) if answer in vocabulary)
    assert re.search({"color": "color", "shape": "shape", "size": "size|big|large|small"}[kind], question.lower())
    places = PLACE.findall(question)
    found = [
        t
        for t in things
        if t["color"] in (words(question, COLORS) or COLORS)
        and t["shape"] in (words(question, SHAPES) or SHAPES)
        and t["position"] in (places or PLACES)
    ]
    assert len(found) == 1, "the question must name exactly one thing"
    return found[0][kind]


def relations_answer(question, things):
    tests = {
        r"left": lambda a, b: grid(a)[1] < grid(b)[1],
        r"right": lambda a, b: grid(a)[1] > grid(b)[1],
        r"above|higher": lambda a, b: grid(a)[0] < grid(b)[0],
        r"below|lower": lambda a, b: grid(a)[0] > grid(b)[0],
        r"larger": lambda a, b: SIZES.index(a["size"]) > SIZES.index(b["size"]),
        r"smaller": lambda a, b: SIZES.index(a["size"]) < SIZES.index(b["size"]),
    }
    question = question.replace("Is that right?", "")  # no direction
    involved = [named(things, *look) for look in NAME.findall(question)]
    if re.search(r"\bsize\b|\bhow large\b", question.lower()):
        return "; ".join("{size}, {position}".format(**t) for t in involved)
    (test,) = [t for pattern, t in tests.items() if re.search(rf"\b({pattern})\b", question)]
    if "directly" in question.lower():
        near = [t for t in things if sum(abs(p - q) for p, q in zip(grid(t), grid(involved[0]), strict=True)) == 1]
        (found,) = [t for t in near if test(t, involved[0])]
        return f"{found['color']} {found['shape']}"
    a, b = involved
    assert test(a, b) != test(b, a), "without a margin there is nothing to ask"
    if re.search(r"\b(which|what|name the one)\b", question.lower()):
        return "{color} {shape}".format(**(a if test(a, b) else b))
    return "yes" if test(a, b) else "no"


def difference(first, second):
    """(kind, thing of the first picture or of the second if it is new, place) of the one difference, or None."""
    before, after = ({t["position"]: t for t in things} for things in (first, second))
    places = [p for p in PLACES if before.get(p) != after.get(p)]
    if not places:
        return None
    (place,) = places
    if place not in after:
        return "removed", before[place], place
    if place not in before:
        return "added", after[place], place
    (kind,) = [k for k in KEYS if before[place][k] != after[place][k]]
    return kind, before[place], place


def album_told(question, pictures):
    (index,) = [ORDINALS.index(o) for o in ORDINALS if o in question] if "chang" not in question else (None,)
    if index is not None and "different" not in question:
        return told(pictures[index]) or "The picture is empty."
    change = difference(*pictures[:2])
    if change is None:
        return "Nothing has changed."
    kind, thing, place = change
    if kind in ("added", "removed"):
        return f"At the {place} a {{size}} {{color}} {{shape}} was {kind}.".format(**thing)
    (new,) = [t for t in pictures[1] if t["position"] == place]
    was, now = ("{size} {color} {shape}".format(**t) for t in (thing, new))
    return f"At the {place} a {was} is now a {now}: another {kind}."


def multi_image_answer(question, answer, meta):
    pictures = [p["things"] for p in meta["pictures"]]
    change = difference(*pictures[:2]) if answer in ("same", "different") or meta["change"] else None
    low = question.lower()
    if answer.endswith("."):
        return album_told(low, pictures)
    if "same or different" in low or answer in ("same", "different"):
        return "different" if change else "same"
    if answer.isdigit():
        (index,) = [ORDINALS.index(o) for o in ORDINALS if o in low]
        return str(counted(pictures[index], low))
    if match := re.search(r"\b(more|fewer|most|fewest)\b", low.replace("one more", "")):
        counts = {o: counted(p, low) for o, p in zip(ORDINALS, pictures, strict=False) if o in low}
        counts = counts or {o: counted(p, low) for o, p in zip(ORDINALS, pictures, strict=False)}
        best = (max if match[1] in ("more", "most") else min)(counts.values())
        (winner,) = [o for o, n in counts.items() if n == best]
        return f"the {winner}"
    kind, thing, place = change
    assert meta["change"] == kind
    if answer in PLACES:
        assert re.search("where|place|part", low)
        return place
    return kind if "added or removed" in low else "{color} {shape}".format(**thing)


def mover(frames):
    """The one thing that is not where it was, frame by frame."""
    (track,) = [track for track in zip(*frames, strict=True) if track[0] != track[-1]]
    return track


def clip_told(meta):
    frames = meta["frames"]
    seen = [t for i, things in enumerate(frames) for t in things if i == 0 or t not in frames[i - 1]]
    if meta["story"] == "bounces":
        n = int(video_answer("", "0", meta))
        return "A {size} {color} ball bounces".format(**frames[0][0]) + (" once." if n == 1 else f" {n} times.")
    if meta["story"] == "order":
        return told(seen, "At the {position} a {size} {color} {shape} appears.")
    if meta["story"] == "appeared":
        still = sorted(frames[0], key=lambda t: PLACES.index(t["position"]))
        return " ".join(
            filter(None, (told(seen[-1:], "At the {position} a {size} {color} {shape} appears."), told(still)))
        )
    track = mover(frames)
    still = sorted((t for t in frames[0] if t != track[0]), key=lambda t: PLACES.index(t["position"]))
    way = "A {size} {color} {shape} moves ".format(**track[0]) + video_answer("", "left", meta)
    way += f", from the {track[0]['position']} to the {track[-1]['position']}."
    return " ".join(filter(None, (way, told(still))))


def frame_by_frame(question, meta):
    frames = meta["frames"]
    if "how many" in question or "count" in question or "number" in question:
        return ", ".join(str(len(things)) for things in frames)
    if meta["story"] == "direction":
        return ", ".join(t["position"] for t in mover(frames))
    ys = [things[0]["y"] for things in frames]
    low, high = max(ys), min(ys)
    if high == low:
        return ", ".join(["high"] * len(ys))
    shares = [(low - y) / (low - high) for y in ys]
    return ", ".join("floor" if share < 1e-9 else "high" if share > 0.6 else "low" for share in shares)


def video_answer(question, answer, meta):
    frames, low = meta["frames"], question.lower()
    if answer.endswith("."):
        return clip_told(meta)
    if re.search(r"\b(frame by frame|each frame|every frame|each one|go through)\b", low):
        return frame_by_frame(low, meta)
    looks = [[(t["color"], t["shape"]) for t in things] for things in frames]
    if answer.isdigit():
        if meta["story"] != "bounces":
            return str(len(frames[-1]))
        ys = [things[0]["y"] for things in frames]
        return str(sum(a < b > c for a, b, c in zip(ys, ys[1:], ys[2:], strict=False)))
    if meta["story"] == "bounces":
        return looks[0][0][0]
    if meta["story"] == "direction":
        track = mover(frames)
        steps = [(b["x"] - a["x"], b["y"] - a["y"]) for a, b in pairwise(track)]
        x, y = (sorted({np.sign(s[axis]) for s in steps}) for axis in (0, 1))
        way = {(1, 0): "right", (-1, 0): "left", (0, 1): "down", (0, -1): "up"}[(*x, *y)]
        return way if answer in ("left", "right", "up", "down") else "{color} {shape}".format(**track[0])
    seen = [t for i, things in enumerate(frames) for t in things if i == 0 or t not in frames[i - 1]]
    if meta["story"] == "appeared":
        new = seen[-1]
        assert all((t["color"], t["shape"]) != (new["color"], new["shape"]) for t in frames[0])
        return new["position"] if answer in PLACES else "{color} {shape}".format(**new)
    colors = [t["color"] for t in seen]
    assert len(set(colors)) == len(colors)
    if "," in answer:
        return ", ".join(colors)
    return colors[0 if "first" in low else -1]


def right_answer(turn, item):
    meta = item.meta
    if turn.family == "attributes":
        return attributes_answer(turn.question, turn.answer, meta["things"])
    if turn.family == "counting":
        return counting_answer(turn.question, meta["things"])
    if turn.family == "relations":
        return relations_answer(turn.question, meta["things"])
    if turn.family == "describe":
        return told(meta["things"])
    if turn.family == "json":
        return json.dumps(meta["things"])
    oracle = multi_image_answer if turn.family == "multi_image" else video_answer
    return oracle(turn.question, turn.answer, meta)


def all_looks(item):
    meta = item.meta
    groups = [picture["things"] for picture in meta.get("pictures", [])] + meta.get("frames", [])
    return {(t["color"], t["shape"]) for things in [*groups, meta.get("things", [])] for t in things}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_answer_follows_from_the_meta(family, split):
    for item in items(family, split, 80):
        for turn in item.turns:
            assert turn.answer == right_answer(turn, item), turn.question


@pytest.mark.parametrize("family", FAMILIES)
def test_an_item_is_a_function_of_its_stream(family):
    one, two = items(family, "train", 4), items(family, "train", 4)
    assert [(i.turns, i.meta, i.kind) for i in one] == [(i.turns, i.meta, i.kind) for i in two]
    assert [[m.tobytes() for m in i.media] for i in one] == [[m.tobytes() for m in i.media] for i in two]
    assert len({i.media[0].tobytes() for i in one}) == len(one)


@pytest.mark.parametrize(("n_turns", "max_side"), [(1, 96), (3, 130), (12, 1000)])
@pytest.mark.parametrize("family", FAMILIES)
def test_turns_and_media_have_the_promised_numbers_and_sizes(family, n_turns, max_side):
    for item in items(family, "heldout", 8, n_turns, max_side):
        assert len(item.turns) == n_turns
        assert all(m.mode == "RGB" and 96 <= min(m.size) and max(m.size) <= min(640, max_side) for m in item.media)
        assert item.kind == ("video" if family == "video" else "image")
        low, high = {"multi_image": (2, 4), "video": (4, 16)}.get(family, (1, 1))
        assert low <= len(item.media) <= high
        if family == "video":
            assert len({m.size for m in item.media}) == 1 and len(item.meta["frames"]) == len(item.media)


def test_a_side_too_small_to_draw_in_is_refused():
    with pytest.raises(ValueError, match="at least 96"):
        describe.make(stream("describe", "train", 0, 0), "train", 1, 95)


@pytest.mark.parametrize("family", FAMILIES)
def test_held_out_combinations_stay_out_of_training(family):
    train, held = items(family, "train", 80), items(family, "heldout", 80)
    forbidden = re.compile("|".join(f"{c} {s}" for c, s in HELD_OUT))
    for item in train:
        assert not all_looks(item) & set(HELD_OUT)
        assert not any(forbidden.search(f"{t.question} {t.answer}") for t in item.turns)
    assert set().union(*map(all_looks, held)) >= set(HELD_OUT)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "scene_chat"])
def test_the_splits_share_no_phrasing(family):
    vocabulary = [*PLACES, *COLORS, *(s + "s" for s in SHAPES), *SHAPES, *ORDINALS, "shapes", *relations.MOST.values()]
    vocabulary += [text for *_, text in relations.RELATIONS.values()]
    slots = re.compile(rf"\b({'|'.join(sorted(vocabulary, key=len, reverse=True))})\b")
    train, held = (
        {slots.sub("_", turn.question) for item in items(family, split, 100) for turn in item.turns}
        for split in SPLITS
    )
    assert not train & held
    assert len(train) >= 4 and len(held) >= 2


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(0, 9), side=st.integers(96, 700))
def test_things_keep_to_their_cells_and_show_their_colors(seed, n, side):
    rng = np.random.default_rng(seed)
    scene = random_scene(rng, "heldout", n, side)
    pixels = np.asarray(draw(scene, rng), dtype=int)  # [H, W, 3]
    assert len({t.position for t in scene.things}) == len(scene.things) == n
    for thing in scene.things:
        row, column = grid(thing.facts())
        for share, length, cell in ((thing.x, scene.width, column), (thing.y, scene.height, row)):
            reach = thing.r * min(scene.width, scene.height) / length
            assert cell / 3 < share - reach and share + reach < (cell + 1) / 3
        rgb = pixels[int(thing.y * scene.height), int(thing.x * scene.width)]
        assert min(COLORS, key=lambda c: np.abs(rgb - COLORS[c]).sum()) == thing.color
        corner = pixels[int(row / 3 * scene.height), int(column / 3 * scene.width)]
        assert np.abs(corner - scene.background).max() <= 60, "the corner of a cell shows the background"


def test_shapes_and_sizes_can_be_told_apart_by_their_pixels():
    shares = {shape: [] for shape in SHAPES}
    extents = {size: [] for size in SIZES}
    for i in range(200):
        rng = stream("pixels", "train", 0, i)
        scene = random_scene(rng, "train", 1, 400)
        thing, pixels = scene.things[0], np.asarray(draw(scene, rng), dtype=int)
        short = min(scene.width, scene.height)
        r, x, y = thing.r * short, thing.x * scene.width, thing.y * scene.height
        box = pixels[round(y - r) : round(y + r), round(x - r) : round(x + r)]
        inside = np.abs(box - COLORS[thing.color]).sum(-1) < 90
        shares[thing.shape].append(inside.mean())
        extents[thing.size].append(inside.any(0).sum() / short)
    means = {shape: np.mean(values) for shape, values in shares.items()}
    assert means["star"] < means["triangle"] - 0.08 < min(means["circle"], means["square"]) - 0.2
    assert max(extents["small"]) < min(extents["medium"]) and max(extents["medium"]) < min(extents["large"])


def test_a_video_shows_what_its_meta_says():
    for item in items("video", "heldout", 40):
        for picture, things in zip(item.media, item.meta["frames"], strict=True):
            for thing in things:
                rgb = np.array(picture.getpixel((int(thing["x"] * picture.width), int(thing["y"] * picture.height))))
                assert min(COLORS, key=lambda c: np.abs(rgb - COLORS[c]).sum()) == thing["color"]


def shares(answers):
    return {answer: n / len(answers) for answer, n in Counter(answers).items()}


def test_first_answers_are_spread():
    first = {f: [i.turns[0].answer for i in items(f, "train", 400, 1, 96)] for f in ("counting", "relations")}
    spread = shares(first["counting"])
    assert set(spread) == set("0123456789") and max(spread.values()) < 0.2 and min(spread.values()) > 0.05
    yes_no = shares([a for a in first["relations"] if a in ("yes", "no")])
    assert abs(yes_no["yes"] - 0.5) < 0.1
    albums = [i.turns[0].answer for i in items("multi_image", "train", 400, 2, 96)]
    same = shares([a for a in albums if a in ("same", "different")])
    assert abs(same["same"] - 0.5) < 0.2
    assert {"color", "shape", "size", "added", "removed", "the first", "the second"} <= set(albums)
    clips = [i.turns[0].answer for i in items("video", "train", 300, 2, 96)]
    assert {"left", "right", "up", "down", *"01234"} <= set(clips)


def test_counting_on_a_given_scene_asks_for_more_than_zeros_and_ones():
    rng = np.random.default_rng(0)
    answers = [counting.ask(random_scene(rng, "train", 8, 96), rng, "train").answer for _ in range(400)]
    assert sum(a in "01" for a in answers) < 0.6 * len(answers)


def test_a_chat_asks_nothing_twice_and_describes_often():
    chats = items("scene_chat", "train", 150, 6)
    families = Counter(turn.family for chat in chats for turn in chat.turns)
    assert all(len({t.question for t in chat.turns}) == 6 for chat in chats)
    assert families["describe"] > 75 and families["json"] > 10
    assert min(families[f] for f in ("attributes", "counting", "relations")) > 120


def test_further_wordings_of_attributes_are_new_and_in_training_alone():
    patterns = []
    for phrasings, further in attributes.TRAINING_ONLY.items():
        assert not set(phrasings) & set(further) and len(set(further)) == len(further)
        patterns += [re.compile(re.sub(r"\\\{\w+\\\}", r"[\\w ]+", re.escape(wording)) + "$") for wording in further]
    asked = {}
    for split in SPLITS:
        turns = [
            turn
            for i in range(150)
            for turn in attributes.make(stream("attributes", split, 0, i), split, 4, 256).turns
        ]
        asked[split] = sum(any(pattern.match(turn.question) for pattern in patterns) for turn in turns)
    assert asked["train"] > 100 and asked["heldout"] == 0


def test_relations_refuse_a_scene_without_a_pair_to_compare():
    scene = random_scene(np.random.default_rng(0), "train", 2, 96, [("red", "circle")] * 2)
    assert not relations.askable(scene)
    with pytest.raises(ValueError, match="can be compared"):
        relations.ask(scene, np.random.default_rng(0), "train")


@pytest.mark.parametrize(("family", "low", "high"), [("describe", 2, 8), ("json", 1, 5)])
def test_long_answers_are_read_back_into_the_things(family, low, high):
    for item in items(family, "heldout", 60, 1):
        assert FAMILIES[family].parse(item.turns[0].answer) == item.meta["things"]
        assert low <= len(item.meta["things"]) <= high
        order = [PLACES.index(t["position"]) for t in item.meta["things"]]
        assert order == sorted(order)


def test_json_answers_keep_to_the_schema():
    fields = scene_json.SCHEMA["items"]["properties"]
    assert set(fields) == set(scene_json.SCHEMA["items"]["required"]) == set(KEYS)
    for item in items("json", "heldout", 60, 1):
        for entry in json.loads(item.turns[0].answer):
            assert set(entry) == set(fields) and all(entry[k] in fields[k]["enum"] for k in fields)


def test_parse_keeps_what_it_can_read():
    text = "Well, in the center is a Small red star. At the top is a blue blob. At the top left is a large blue circle"
    assert [t["color"] + t["position"] for t in describe.parse(text)] == ["redcenter", "bluetop left"]
    assert scene_json.parse('[{"shape": "star", "extra": 1}, 3]') == [{"shape": "star"}]
    for text in ('{"shape": "star"}', '[{"shape": "st', "[" * 9999, ""):
        assert scene_json.parse(text) == []


@given(st.text())
def test_parse_never_fails(text):
    assert isinstance(describe.parse(text), list) and isinstance(scene_json.parse(text), list)
