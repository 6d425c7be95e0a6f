"""ParallelBench: rule checkers against brute force, strict and loose readings, and a whole run on a tiny model."""

import json
from dataclasses import replace
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.playground.edits import EDITS
from eval.__main__ import main
from eval.metrics import (
    broken_rules,
    is_latin_square,
    is_loosely_sentence_of,
    is_sentence_of,
    legal_edit,
    list_in,
    loose_list_in,
    loose_square_in,
    solves_sudoku,
    square_in,
)
from eval.output import load
from eval.report import report
from eval.runner import evaluate
from eval.suites import parallel_bench
from eval.suites.choose import suite_named, suite_of
from eval.suites.parallel_bench import DRAWN, FAMILIES, TASKS, judged, posed, question
from eval.summary import header, result, rows
from tests.vlm.tiny import tiny_model
from vlm.answering import settings as decoding

WORDS, NEW = ("ant", "bee", "cow"), "dog"
OPEN = {
    "shuffle": {order for order in permutations(WORDS) if order != WORDS},
    "insert_random": {(*WORDS[:i], NEW, *WORDS[i:]) for i in range(4)},
    "remove_random": {(WORDS[1], WORDS[2]), (WORDS[0], WORDS[2]), (WORDS[0], WORDS[1])},
    "replace_random": {(NEW, "bee", "cow"), ("ant", NEW, "cow"), ("ant", "bee", NEW)},
}


@pytest.mark.parametrize("task", EDITS)
def test_an_edit_is_judged_like_all_lists_tried_one_by_one(task):
    """Every list of one to five words out of five."""
    expected = ("cow", "ant", "bee")
    right = OPEN.get(task, {expected})
    tried = (said for n in range(6) for said in product((*WORDS, NEW, "elk"), repeat=n))
    assert {said for said in tried if legal_edit(task, said, WORDS, expected, NEW)} == right


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdef"), unique=True, min_size=3), st.data())
def test_an_open_edit_of_any_list_is_judged_by_all_places(words, data):
    said = data.draw(st.permutations(words) | st.lists(st.sampled_from([*words, "x"]), max_size=7))
    n = len(words)
    inserted = [[*words[:i], "x", *words[i:]] for i in range(n + 1)]
    replaced = [[*words[:i], "x", *words[i + 1 :]] for i in range(n)]
    removed = [[*words[:i], *words[i + 1 :]] for i in range(n)]
    places = {"insert_random": inserted, "replace_random": replaced, "remove_random": removed}
    for task, right in places.items():
        for candidate in (said, *right):
            assert legal_edit(task, candidate, words, [], "x") == (candidate in right)
    assert legal_edit("shuffle", said, words, [], "x") == (
        said != words and list(said) in map(list, permutations(words))
    )


symbol_rows = st.lists(st.permutations("AB12"), min_size=4, max_size=4)


@settings(deadline=None)
@given(symbol_rows, st.data())
def test_a_latin_square_is_judged_cell_by_cell(square, data):
    if data.draw(st.booleans()):  # random rows are a Latin square seldom: shift one row round
        square = [square[0][i:] + square[0][:i] for i in data.draw(st.permutations(range(4)))]
    cells = {(r, c): square[r][c] for r in range(4) for c in range(4)}
    clash = any(cells[a] == cells[b] for a in cells for b in cells if a < b and (a[0] == b[0]) != (a[1] == b[1]))
    assert is_latin_square(square, list("21BA")) == (not clash)
    assert not is_latin_square(square, list("21BC")) and not is_latin_square(square[:3], list("21BA"))
    assert not is_latin_square(None, list("21BA"))


def test_of_all_latin_squares_only_the_solution_solves_a_sudoku():
    pairs = [pair for pair in product(permutations("1234"), repeat=2) if all(len({*c}) == 2 for c in zip(*pair))]
    everyone = [[list(row) for row in (*a, *b)] for a in pairs for b in pairs if _columns_differ(a, b)]
    assert len(everyone) == 576
    for index in range(12):
        item = posed("sudoku", 4, index, rendered=False)
        right = [rows for rows in everyone if solves_sudoku(rows, item.meta["given"])]
        assert ["\n".join(map(" ".join, rows)) for rows in right] == [item.turns[0].answer]


def _columns_differ(top, low):
    return all(len({*column}) == 4 for column in zip(*top, *low))


LISTS = [
    ("one, two, three", ["one", "two", "three"], ["one", "two", "three"]),
    (" one, two\n", ["one", "two"], ["one", "two"]),
    ("one", ["one"], ["one"]),
    ("One, Two", ["One", "Two"], ["one", "two"]),
    ("one,two", None, ["one", "two"]),
    ("one, two.", None, ["one", "two"]),
    ("one two", None, ["one", "two"]),
    ('["one", "two"]', None, ["one", "two"]),
    ("From [a, b] I get ['one', 'two'].", None, ["one", "two"]),
    ("Here it is: one, two and three", None, ["one", "two and three"]),
    ("Sure:\n1. one\n2. two\n", None, ["one", "two"]),
    ("- one\n- two", None, ["one", "two"]),
    ("one, two, and three", None, ["one", "two", "three"]),
    ("**one**, “two”", None, ["one", "two"]),
    ("one, , two", None, ["one", "two"]),
    ("", None, []),
    ("[]", None, []),
    ("one, two,", None, ["one", "two"]),
]


@pytest.mark.parametrize("answer, strict, loose", LISTS)
def test_lists_are_read_strictly_and_loosely(answer, strict, loose):
    assert (list_in(answer), loose_list_in(answer)) == (strict, loose)


ROWS = [list("A1BC"), list("1ABC"), list("BC1A"), list("CBA1")]
SQUARES = [
    ("A 1 B C\n1 A B C\nB C 1 A\nC B A 1", True, True),
    ("A 1 B C\n1 A B C\nB C 1 A\nC B A 1\n", True, True),
    ("a 1 b c\n1 a b c\nb c 1 a\nc b a 1", False, True),
    ("A 1 B C \n1 A B C\nB C 1 A\nC B A 1", False, True),
    ("A1BC\n1ABC\nBC1A\nCBA1", False, True),
    ("A 1 B C; 1 A B C; B C 1 A; C B A 1", False, True),
    ('[["A", "1", "B", "C"], ["1", "A", "B", "C"], ["B", "C", "1", "A"], ["C", "B", "A", "1"]]', False, True),
    ("| A | 1 | B | C |\n|---|---|---|---|\n| 1 | A | B | C |\n| B | C | 1 | A |\n| C | B | A | 1 |", False, True),
    ("Here it is:\n\nA 1 B C\n1 A B C\nB C 1 A\nC B A 1\n\nDone.", False, True),
    ("A 1 B C\n1 A B C\nB C 1 A", False, False),
    ("A 1 B\n1 A B C\nB C 1 A\nC B A 1", False, False),
    ("", False, False),
]


@pytest.mark.parametrize("answer, strict, loose", SQUARES)
def test_squares_are_read_strictly_and_loosely(answer, strict, loose):
    assert square_in(answer) == (ROWS if strict else None)
    assert loose_square_in(answer) == (ROWS if loose else None)


GOOD = [
    "The panda ate the pizza.",
    "A panda and an owl like pizza!",
    "Did the panda's friend, a panda too, order pizza?",
    "Pizza, as every panda knows, tastes best in the morning.",
    "An hour ago I saw a unicorn; the panda had had its pizza.",
    "The pandas watched while a panda baked pizza.",
]
BAD = [
    ("the panda ate the pizza.", {"form"}, True),
    ("The panda ate the pizza", {"form"}, True),
    ('"The panda ate the pizza."', {"form"}, True),
    ("The panda ate the pizza.\nI hope you like it.", {"form"}, True),
    ("The panda ate.  The pizza was good.", {"form"}, False),
    ("The panda  ate the pizza.", {"form"}, False),
    ("The panda ate , the pizza.", {"form"}, False),
    ("The panda ate the pizzas.", {"words"}, False),
    ("The ate the pizza.", {"words"}, False),
    ("Panda ate pizza.", {"length"}, False),
    ("The panda ate ate the pizza.", {"twice"}, False),
    ("The the panda ate pizza.", {"twice", "joint"}, False),
    ("A owl and the panda ate pizza.", {"article"}, False),
    ("An panda ate the pizza.", {"article"}, False),
    ("An uniform of a panda smelled of pizza.", {"article"}, False),
    ("The and panda ate pizza.", {"joint"}, False),
    ("The panda ate pizza and the.", {"joint"}, False),
    ("The panda ate the pizza of.", {"joint"}, False),
    ("The panda and the pizza.", {"verb"}, False),
    ("", {"form", "words", "length", "verb"}, False),
    ("panda pizza", {"form", "length", "verb"}, False),
    ("The panda ate the pizza" + ", then" + " more and" * 20 + " more pizza.", {"length"}, False),
]


@pytest.mark.parametrize("sentence", GOOD)
def test_sound_sentences_break_no_rule(sentence):
    assert broken_rules(sentence, ["panda", "pizza"]) == []
    assert is_sentence_of(sentence, ["panda", "pizza"]) and is_loosely_sentence_of(sentence, ["panda", "pizza"])


@pytest.mark.parametrize("sentence, rules, forgiven", BAD)
def test_unsound_sentences_break_the_rule_they_should(sentence, rules, forgiven):
    assert set(broken_rules(sentence, ["panda", "pizza"])) == rules
    assert not is_sentence_of(sentence, ["panda", "pizza"])
    assert is_loosely_sentence_of(sentence, ["panda", "pizza"]) == forgiven


@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_answer_scores_one_and_a_near_miss_none(family):
    for index in range(12):
        right = (
            question(family, 1, index).expected
            if index < 3
            else posed(task_of(family), 1, index, False).turns[0].answer
        )
        assert judged(family, 1, index, right) == judged(family, 1, index, right, loosely=True) == 1.0
        dressed = f'"{right}"' if family.startswith("sentence") else f"Sure, my answer is:\n{right.lower()}"
        assert (judged(family, 1, index, dressed), judged(family, 1, index, dressed, loosely=True)) == (0.0, 1.0)
        for wrong in near_misses(task_of(family), right, posed(task_of(family), 1, index, False).meta["given"]):
            assert judged(family, 1, index, wrong) == judged(family, 1, index, wrong, loosely=True) == 0.0, wrong


def task_of(family):
    return family.removesuffix(DRAWN)


def near_misses(task, right, shown):
    """Answers one slip away from a right one, none of which any rule of the task allows."""
    if task == "sentence":
        words = right[:-1].split()
        return ["", right.replace(f" {shown[0]}", "", 1), " ".join([*words, words[-1]]) + ".", f"{' '.join(shown)}."]
    if task in EDITS:
        items = right.split(", ")
        misses = [[*items, items[0]], items[:-2], ["zzz", *items[1:]], []]
        if task not in ("shuffle", "remove_random"):  # there some other order, or the list again, could be right
            misses += [[*items[1:], items[0]]] if task in ("copy", "reverse", "sort") else []
        misses += [] if task in ("copy", "sort", "reverse") else [list(shown)]
        return [", ".join(miss) for miss in misses]
    lines = right.split("\n")
    swapped = " ".join([*lines[0].split()[1::-1], *lines[0].split()[2:]])
    return ["", "\n".join(lines[:3]), "\n".join([swapped, *lines[1:]]), "\n".join([lines[1], *lines[1:]])]


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(TASKS), st.integers(0, 9), st.data())
def test_what_is_right_strictly_is_right_loosely_and_nothing_crashes(task, index, data):
    right = posed(task, 1, index, rendered=False).turns[0].answer
    at = data.draw(st.integers(0, len(right)))
    noise = data.draw(st.text("ab,. \n[]:\"'1-;|É\x00", max_size=3) | st.text(max_size=3))
    for answer in (right[:at] + noise + right[at:], noise, right[:at] + noise):
        assert judged(task, 1, index, answer) <= judged(task, 1, index, answer, loosely=True)


@pytest.mark.parametrize("task", TASKS)
def test_text_and_picture_ask_the_same(task):
    for index in range(3):
        plain, drawn = question(task, 2, index), question(task + DRAWN, 2, index)
        shown = posed(task, 2, index, rendered=False).meta["cells"] if task != "sentence" else None
        assert (len(plain.media), len(drawn.media)) == (0, 1) and plain.expected == drawn.expected
        assert plain.question.split("\n")[0] == drawn.question
        if shown is not None:
            lines = [[cell.replace("_", "") for cell in line.split(" ")] for line in plain.question.split("\n")[1:]]
            assert lines == shown
        again = question(task + DRAWN, 2, index)
        assert again.media[0].tobytes() == drawn.media[0].tobytes() and again.messages[0] is not drawn.messages[0]
        assert question(task, 3, index).question != plain.question


def test_a_run_is_the_same_in_batches_of_one_and_eight_resumes_and_is_reported(tmp_path):
    families, (model, processor) = ["copy", "shuffle_image", "sudoku", "sentence_image"], tiny_model()
    config = decoding(model, max_new_tokens=4)
    found = {}
    for size, limit in ((1, 3), (8, 2), (8, 3)):  # the second run with eight goes on where the first one stopped
        options = (families, limit, size, tmp_path / str(size), "tiny")
        run, records = evaluate(model, processor, config, suite_named("parallel_bench", 1), *options)
        found[size] = [(r.family, r.index, r.answer, r.forwards, r.score, r.loose) for r in records]
    assert found[1] == found[8] and len(found[1]) == 12
    again = suite_of(run)
    assert (again.name, again.seed, run.suite, run.items) == ("parallel_bench", 1, "parallel_bench", {})
    page = report(tmp_path / "8").read_text(encoding="utf-8")
    assert ">loose</th>" in page and "shuffle_image" in page


def test_loose_scores_stand_beside_strict_ones(tmp_path):
    """Answers that are right, right in a wrong form, and wrong: one, one and two of four."""
    model, processor = tiny_model()
    asked = parallel_bench.suite(1)
    options = (["reverse"], 4, 4, tmp_path, "tiny")
    run, records = evaluate(model, processor, decoding(model, max_new_tokens=1), asked, *options)
    said = [records[0].expected, f"[{records[1].expected}]", "no idea", ""]
    for record, answer in zip(records, said, strict=True):
        question = next(asked.questions("reverse", [record.index]))
        record.answer, record.score, record.loose = (
            answer,
            asked.score(question, answer)[0],
            asked.loose(question, answer),
        )
    shown = result(run, records)
    assert (shown["families"]["reverse"]["score"], shown["families"]["reverse"]["loose"]) == (25.0, 50.0)
    assert shown["total"]["loose"] == 50.0
    shown = dict(zip(header(records), rows(records)[0], strict=True))
    assert (shown["strict"], shown["loose"], shown["cut off"]) == ("25.0", "50.0", "4")
    assert float(shown["forwards / item"]) == round(sum(r.forwards for r in records) / 4, 1)
    plain = [replace(record, loose=None) for record in records]
    assert "loose" not in json.dumps(result(run, plain)["families"]) and header(plain)[2] == "metric"


def test_both_scores_stand_in_every_line_and_in_reports(tmp_path):
    """What is written, read and compared; a record of the version before has no loose score and is read as well."""
    model, processor = tiny_model()
    config, asked = decoding(model, max_new_tokens=3), parallel_bench.suite(1)
    evaluate(model, processor, config, asked, ["copy", "sudoku"], 2, 2, tmp_path / "a", "tiny")
    lines = (tmp_path / "a" / "items.jsonl").read_text(encoding="utf-8").splitlines()
    for record in map(json.loads, lines):
        judges = (record["family"], 1, record["index"], record["answer"])
        assert (record["score"], record["loose"]) == (judged(*judges), judged(*judges, loosely=True))
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "a"), "--output", str(tmp_path / "both")]) == 0
    assert "Loose scores" in (tmp_path / "both" / "report.md").read_text(encoding="utf-8")
    header = json.loads((tmp_path / "a" / "run.json").read_text())
    (tmp_path / "a" / "run.json").write_text(json.dumps({**header, "version": 3}))
    old = [{k: v for k, v in json.loads(line).items() if k != "loose"} for line in lines]
    (tmp_path / "a" / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    assert [r.loose for r in load(tmp_path / "a")[1]] == [None] * 4
    assert ">loose</th>" not in report(tmp_path / "a").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="its version is 3, this one's 4"):
        evaluate(model, processor, config, asked, ["copy"], 3, 2, tmp_path / "a", "tiny")


def test_the_command_line_lists_it_and_refuses_what_it_does_not_take(capsys, tmp_path):
    assert main(["list"]) == 0
    assert "parallel_bench: " + ", ".join(FAMILIES) in capsys.readouterr().out.splitlines()
    assert main(["run", "--suite", "parallel_bench", "--metric", "anls"]) == 2
    assert "go with --suite local" in capsys.readouterr().err
    assert main(["run", "--suite", "parallelbench"]) == 2
    assert "did you mean parallel_bench?" in capsys.readouterr().err
    assert main(["run", "--suite", "parallel_bench", "--tasks", "sodoku"]) == 2
    assert "unknown family 'sodoku'; did you mean sudoku" in capsys.readouterr().err
