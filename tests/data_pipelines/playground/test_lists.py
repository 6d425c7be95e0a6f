"""Lists, Latin squares and sudokus: answers against brute force, one solution each, text and picture alike, splits."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.playground import FAMILIES, canvas, edits, item, lists, squares
from data_pipelines.playground.base import stream
from data_pipelines.playground.conversation import chat
from data_pipelines.playground.words import KEPT
from data_pipelines.record import media_parts

SPLITS = ("train", "heldout")


def all_squares(boxes):
    """Independent of the solver: stacks of row permutations, columns and boxes checked as sets."""
    found = []
    for top in product(permutations((1, 2, 3, 4)), repeat=2):
        if any(len(set(pair)) < 2 for pair in zip(*top)) or (boxes and not _boxes(top)):
            continue
        for low in product(permutations((1, 2, 3, 4)), repeat=2):
            if all(len(set(column)) == 4 for column in zip(*top, *low)) and (not boxes or _boxes(low)):
                found.append(sum((*top, *low), ()))
    return found


def _boxes(pair):
    return all(len({*pair[0][half], *pair[1][half]}) == 4 for half in (slice(0, 2), slice(2, 4)))


@pytest.fixture(scope="module")
def sudokus():
    return all_squares(boxes=True)


def test_the_solver_finds_every_square(sudokus):
    empty = (0,) * 16
    assert sorted(squares.completions(empty, boxes=True)) == sorted(sudokus) and len(sudokus) == 288
    latin = all_squares(boxes=False)
    assert sorted(squares.completions(empty, boxes=False)) == sorted(latin) and len(latin) == 576


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(SPLITS), st.integers(0, 2**31), st.integers(1, squares.MOST_BLANKS))
def test_a_sudoku_has_its_solution_and_no_other(sudokus, split, seed, blanks):
    given_cells, solution = squares.sudoku(np.random.default_rng(seed), split, blanks)
    assert given_cells.count(0) == blanks
    fitting = [s for s in sudokus if all(g in (0, d) for g, d in zip(given_cells, s, strict=True))]
    assert fitting == [solution]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.sets(st.integers(0, 15), max_size=14))
def test_uniqueness_is_what_counting_all_squares_says(sudokus, seed, emptied):
    """Also for sudokus with several solutions, which the generator has to throw away."""
    solution = sudokus[seed % len(sudokus)]
    cells = tuple(0 if at in emptied else digit for at, digit in enumerate(solution))
    fitting = [s for s in sudokus if all(g in (0, d) for g, d in zip(cells, s, strict=True))]
    assert squares.is_unique(cells) == (len(fitting) == 1)
    assert sorted(squares.completions(cells, boxes=True)) == sorted(fitting)


def test_all_splits_of_squares_are_apart_and_used():
    solutions = {
        split: {squares.sudoku(np.random.default_rng(i), split, 1)[1] for i in range(400)} for split in SPLITS
    }
    sets = {
        split: {frozenset(squares.symbols(np.random.default_rng(i), split)) for i in range(300)} for split in SPLITS
    }
    for found in (solutions, sets):
        assert not found["train"] & found["heldout"] and min(map(len, found.values())) > 30
    assert all(len(symbols) == 4 for found in sets.values() for symbols in found)


def legal(task, words, new):
    """Every right result of an edit whose place is open, by trying all places."""
    n = len(words)
    return {
        "shuffle": {order for order in permutations(words) if order != words},
        "insert_random": {(*words[:i], new, *words[i:]) for i in range(n + 1)},
        "remove_random": {tuple(w for w in words if w != gone) for gone in words},
        "replace_random": {tuple(new if w == gone else w for w in words) for gone in words},
    }[task]


@pytest.mark.parametrize("task", ["shuffle", "insert_random", "remove_random", "replace_random"])
def test_an_open_edit_draws_every_right_result_and_no_other(task):
    rng, words = np.random.default_rng(0), ("ant", "bee", "cow")
    drawn = [tuple(edits.edited(rng, task, words, "dog")[0]) for _ in range(300)]
    assert set(drawn) == legal(task, words, "dog")
    assert min(map(drawn.count, set(drawn))) > 300 / len(set(drawn)) / 2


def holds_list(words, kind, slots):
    """The single right answer of a closed edit, restated; None for an open one."""
    at = edits.PLACES.index(slots["place"]) if "place" in slots else None
    copy = list(words)
    if kind == "insert_index":
        copy.insert(at, slots["new"])
    elif kind == "remove_index":
        copy.pop(at)
    elif kind == "replace_index":
        copy[at] = slots["new"]
    elif kind == "reverse":
        copy.reverse()
    elif kind == "sort":
        copy.sort()
    elif kind != "copy":
        return None
    return ", ".join(copy)


@pytest.mark.parametrize("split", SPLITS)
def test_every_answer_is_what_the_cells_say(split, sudokus):
    kinds = set()
    for index in range(100):
        made = item("lists", split, 3, index, n_turns=12, max_side=96)
        cells, words = made.meta["cells"], tuple(made.meta["given"])
        shown = sum(cells, [])
        fitting = [s for s in sudokus if all(c in ("", str(d)) for c, d in zip(shown, s))]
        for turn, asked in zip(made.turns, made.meta["asked"], strict=True):
            slots = dict(asked)
            kinds.add(kind := slots.pop("kind"))
            rows = [line.split(" ") for line in turn.answer.split("\n")]
            if kind == "latin_square":
                assert all(set(group) == set(cells[0]) and len(group) == 4 for group in [*rows, *zip(*rows)])
            elif kind in ("sudoku", "row"):
                [solution] = fitting
                text = [" ".join(map(str, solution[at : at + 4])) for at in range(0, 16, 4)]
                assert turn.answer == (
                    "\n".join(text) if kind == "sudoku" else text[edits.PLACES.index(slots["place"])]
                )
            elif (expected := holds_list(words, kind, slots)) is not None:
                assert turn.answer == expected
            else:
                assert tuple(turn.answer.split(", ")) in legal(kind, words, slots.get("new"))
                assert slots.get("new") not in words
    assert kinds == set(lists.PHRASINGS)


@pytest.mark.parametrize("task", lists.TASKS)
@pytest.mark.parametrize("split", SPLITS)
def test_text_and_picture_ask_the_same(task, split):
    for index in range(4):
        plain, drawn = (lists.posed(stream("x", split, 1, index), split, task, rendered, 3) for rendered in (0, 1))
        assert plain.media == [] and len(drawn.media) == 1
        question, *shown = plain.turns[0].question.split("\n")
        assert question == drawn.turns[0].question
        assert [turn.answer for turn in plain.turns] == [turn.answer for turn in drawn.turns]
        assert plain.turns[1:] == drawn.turns[1:]
        assert all(plain.meta[key] == drawn.meta[key] for key in plain.meta)
        assert [["" if cell == "_" else cell for cell in line.split(" ")] for line in shown] == plain.meta["cells"]


@pytest.mark.parametrize("task", ["copy", "latin_square", "sudoku"])
def test_every_cell_is_drawn_in_its_place_legibly(task):
    for index in range(25):
        made = lists.posed(stream("x", "train", 2, index), "train", task, True, max_side=256)
        (image,), cells, boxes = made.media, made.meta["cells"], made.meta["boxes"]
        filled = [(i, j) for i, row in enumerate(cells) for j, text in enumerate(row) if text]
        assert len(boxes) == len(filled)
        for x0, y0, x1, y1 in boxes:
            assert 0 <= x0 < x1 <= image.width and 0 <= y0 < y1 <= image.height
            patch = np.asarray(image.convert("L").crop((x0, y0, x1, y1)), dtype=int)
            assert np.ptp(patch) > 60, "nothing is drawn"
        for (a, box), (b, other) in ((p, q) for p in zip(filled, boxes) for q in zip(filled, boxes)):
            assert a[0] >= b[0] or box[3] <= other[1] + 1, "rows overlap"
            assert a[0] != b[0] or a[1] >= b[1] or box[2] < other[0], "columns overlap"
        assert all(canvas.contrast(made.meta["ink"], paper) >= canvas.MIN_CONTRAST for paper in made.meta["papers"])
        assert made.meta["em"] * 192 / max(image.size) >= 16, "too small once the picture is squashed"


def test_splits_differ_in_words_wordings_and_fonts():
    made = {split: [item("lists", split, 5, i, 3, 256) for i in range(120)] for split in SPLITS}
    for split, found in made.items():
        wordings = {kind: set(lists.PHRASINGS[kind][2::3]) for kind in lists.PHRASINGS}
        for one in found:
            for turn, asked in zip(one.turns[1:], one.meta["asked"][1:], strict=True):
                kept = {wording.format(**asked) for wording in wordings[asked["kind"]]}
                assert (turn.question in kept) == (split == "heldout")
            assert any(hint in one.turns[0].question for hint in (lists.LIST_HINTS[2], lists.SQUARE_HINTS[2])) == (
                split == "heldout"
            )
    words = {
        split: {w for m in found for w in m.meta["given"] if m.meta["task"] in edits.EDITS}
        for split, found in made.items()
    }
    assert not words["train"] & set(KEPT["heldout"]) and words["heldout"] & set(KEPT["heldout"])
    fonts = {split: {m.meta["font"] for m in found if m.media} for split, found in made.items()}
    assert not fonts["train"] & fonts["heldout"]
    assert all(m.meta["given"].count(0) == lists.BLANKS for m in made["heldout"] if m.meta["task"] == "sudoku")


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SPLITS), st.integers(0, 2**31), st.integers(0, 999), st.integers(1, 14), st.integers(96, 700))
def test_an_item_is_a_function_of_its_numbers(split, seed, index, n_turns, max_side):
    one, again = (item("lists", split, seed, index, n_turns, max_side) for _ in "ab")
    assert (one.turns, one.meta) == (again.turns, again.meta) and len(one.turns) == n_turns
    assert [m.tobytes() for m in one.media] == [m.tobytes() for m in again.media]
    assert all(96 <= side <= min(640, max_side) for m in one.media for side in m.size)
    assert all(turn.family == "lists" and turn.answer for turn in one.turns)
    messages, media = chat(one)
    assert len(media) == len(media_parts(messages)) == len(one.media)


def test_half_is_drawn_and_every_task_occurs():
    made = [FAMILIES["lists"](stream("lists", "train", 0, i), "train", 1, 96) for i in range(300)]
    assert {m.meta["task"] for m in made} == set(lists.TASKS)
    assert 0.4 < sum(bool(m.media) for m in made) / len(made) < 0.6
