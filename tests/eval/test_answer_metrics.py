"""Metrics of public benchmarks against examples that others published, and against restatements of their rules."""

import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import (
    anls,
    bootstrap_scores,
    chosen_letter,
    edit_distance,
    f1,
    interval,
    json_validity,
    matching,
    multiple_choice,
    processed,
    relaxed_accuracy,
    slot_f1,
    vqa_accuracy,
    wilson_interval,
)

# The test of Pix2Struct's metrics (google-research/pix2struct, metrics_test.py): relaxed accuracy 62.5, ANLS 47.5.
SAID = ["abc", "abc", "Abc", "100%", "100%", "100%", "100%", "Don't"]
TRUE = ["abc", "Abc", "abc", "96%", "94%", "0.96", "0.94", "Won't"]


def test_the_figures_of_pix2structs_test():
    assert sum(map(relaxed_accuracy, SAID, TRUE)) / 8 == 0.625
    assert sum(anls(said, [true]) for said, true in zip(SAID, TRUE)) / 8 == pytest.approx(0.475)


@pytest.mark.parametrize("said, true, right", [
    ("105", "100", 1), ("95", "100", 1), ("105.1", "100", 0), ("94.9", "100", 0),  # 5 % of the expected value
    ("-105", "-100", 1), ("100", "-100", 0), ("0.05", "5%", 1), ("5", "5%", 0), ("96%", "1", 1),
    ("0", "0", 1), ("0.0", "0", 0), ("0.01", "0", 0), ("nan", "100", 0), ("inf", "inf", 1), ("100 km", "100", 0),
    (" Yes ", "yes", 1), ("1,000", "1000", 0), ("", "5", 0),
])  # fmt: skip
def test_relaxed_accuracy_rules(said, true, right):
    assert relaxed_accuracy(said, true) == right


def test_the_example_of_the_anls_metric_card():
    """huggingface/evaluate's card for the DocVQA script; one of its eight characters is wrong in the date."""
    assert anls("Denver Broncos", ["Denver Broncos", "Denver R. Broncos"]) == 1
    assert anls("12/15/89", ["12/15/88"]) == 1 - 1 / 8
    assert anls("Dear dr. Lobo", ["Dear Dr. Lobo", "Dr. Lobo"]) == 1
    assert anls("Hello Wrld", ["Hello World"]) == 1 - 1 / 11  # the ANLS* authors' first example


def test_anls_drops_what_is_less_than_half_alike():
    assert anls("abcd", ["abxy"]) == 0.5 and anls("abcde", ["abxyz"]) == 0.0
    assert anls("", ["abc"]) == 0.0 and anls("  a  B ", ["A b"]) == 1.0


def longest_way(a, b):
    """Levenshtein's definition by recursion."""
    if not a or not b:
        return len(a) + len(b)
    return min(longest_way(a[1:], b) + 1, longest_way(a, b[1:]) + 1, longest_way(a[1:], b[1:]) + (a[0] != b[0]))


@settings(deadline=None, max_examples=60)
@given(st.text("abc", max_size=4), st.text("abc", max_size=4))
def test_edit_distance_is_its_recursive_definition(a, b):
    assert edit_distance(a, b) == longest_way(a, b)


@pytest.mark.parametrize("agree, score", [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_vqa_accuracy_of_ten_people(agree, score):
    """The well-known table of the averaged measure."""
    assert vqa_accuracy("red", ["red"] * agree + ["blue"] * (10 - agree)) == pytest.approx(score)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from("xyz"), min_size=4, max_size=10))
def test_vqa_accuracy_is_the_mean_over_those_who_leave_one_out(people):
    subsets = list(combinations(people, len(people) - 1))
    expected = sum(min(sum(p == "x" for p in others) / 3, 1) for others in subsets) / len(subsets)
    assert vqa_accuracy("x", people) == pytest.approx(expected)


@pytest.mark.parametrize("text, same", [
    ("The  Two\nDogs.", "2 dogs"), ("x-y", "x y"), ("yes, it is!", "yes it is"), ("1,000", "1000"), ("3.5", "3.5"),
    ("none", "0"), ("don't", "dont"), ("an apple / a pear", "apple pear"), ("", ""), ("TEN", "10"), ("U.S.", "us"),
])  # fmt: skip
def test_vqa_spelling(text, same):
    assert processed(text) == same


def test_fewer_people_than_four_cannot_be_left_out():
    assert vqa_accuracy("Red.", ["red"]) == vqa_accuracy("red", ["blue", "red"]) == 1.0
    assert vqa_accuracy("red", ["blue"]) == 0.0


BEARS = {"A": "teddy bear", "B": "rabbit", "C": "cat", "D": "dog"}
PETS = {"A": "cat", "B": "dog", "C": "bird"}


@pytest.mark.parametrize("answer, choices, letter", [
    ("a cute teddy bear", BEARS, "A"),  # the two examples in VLMEvalKit's matching prompt
    ("Spider", BEARS, None),
    ("The answer is (B).", PETS, "B"),  # lmms-eval's tests of its parser
    ("I choose C", PETS, "C"),
    ("Final answer: A.", PETS, "A"),
    ("In my opinion, it is the dog indeed.", PETS, "B"),
    ("A B A", PETS, "A"),
    ("The correct answer is (B) 8/11.", {"A": "3/11", "B": "8/11", "C": "6/11", "D": "3/5"}, "B"),  # MathVista's
    ("b", PETS, "B"), (" (c) ", PETS, "C"), ("B. dog", PETS, "B"), ("**C**", PETS, "C"), ("option B", PETS, "B"),
    ("A dog is there", PETS, "B"),  # an article is no letter
    ("I think so", dict.fromkeys("ABCDEFGHI", "x1"), None),
    ("E", PETS, None), ("", PETS, None), ("cat or dog", PETS, None),
    ("dark red", {"A": "red", "B": "dark red", "C": "blue"}, "B"),
    ("(A) is wrong, so it must be (C)", PETS, "C"), ("D", {}, "D"), ("The answer is A cat", PETS, "A"),
])  # fmt: skip
def test_the_letter_an_answer_chooses(answer, choices, letter):
    assert chosen_letter(answer, choices) == letter


def test_what_is_expected_may_be_a_letter_or_a_text():
    assert multiple_choice("B", "dog", PETS) == multiple_choice("the dog", "B", PETS) == 1.0
    assert multiple_choice("A", "B", PETS) == multiple_choice("horse", "B", PETS) == 0.0
    assert multiple_choice("seven", "Seven", {}) == 1.0


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=30))
def test_no_answer_crashes_a_metric(answer):
    for value in (relaxed_accuracy(answer, "5%"), anls(answer, ["abc"]), vqa_accuracy(answer, ["a"] * 10),
                  multiple_choice(answer, "A", PETS), json_validity(answer), slot_f1(answer, "{}")):  # fmt: skip
        assert 0 <= value <= 1


# Named as in the JSON parsing test suite (nst/JSONTestSuite): y_ must be taken, n_ refused.
YES = ["[]", '{"a":1}', " 3 ", '"x"', "null", "[1e+2]", '["\\ud800"]', "-0", "[1, [2, {}]]", "1" * 5000]
NO = [
    "",
    "[1,]",
    "{'a':1}",
    "[NaN]",
    "[-Infinity]",
    "01",
    "[1] x",
    '{"a":1',
    "\ufeff[]",
    '["\t"]',
    "True",
    "[" * 10**5,
]


@pytest.mark.parametrize("text", YES)
def test_json_is_valid(text):
    assert json_validity(text) == 1.0


@pytest.mark.parametrize("text", NO)
def test_no_json(text):
    assert json_validity(text) == 0.0


def test_slot_f1_of_json():
    truth = '[{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]'
    assert slot_f1(truth, truth) == slot_f1('[{"b": "y", "a": 2}, {"b": "x", "a": 1}]', truth) == 1.0
    assert slot_f1('{"a": 1}', truth) == 2 * 1 / (1 + 4)
    assert slot_f1("no json", truth) == slot_f1("[1]", truth) == slot_f1("no json", "[]") == 0.0
    assert slot_f1('{"a": {"c": 1, "b": 2}}', '{"a": {"b": 2, "c": 1}}') == 1.0
    with pytest.raises(ValueError, match="needs a JSON object"):
        slot_f1("{}", "five")


def test_many_things_are_matched_in_polynomial_time():
    things = [{"name": str(i), "kind": str(i % 3)} for i in range(60)]
    assert slot_f1(json.dumps(things[::-1]), json.dumps(things)) == 1.0


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(1, 5), st.randoms(use_true_random=False))
def test_a_matching_uses_no_row_or_column_twice(n, m, random):
    gain = np.array([[random.randint(-3, 5) for _ in range(m)] for _ in range(n)], dtype=float)
    pairs = matching(gain)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs) == min(n, m)


def test_items_of_one_score_have_wilsons_interval():
    for score, n in ((1.0, 6), (0.0, 9)):
        assert interval([(score, 1, 1)] * n) == wilson_interval(score * n, n)
    assert interval([(2, 2, 2)] * 5) == wilson_interval(5, 5)


def test_resampled_scores_are_means_of_items_and_pair_up():
    scores = np.random.default_rng(0).random(300)
    rows = [(s, 1, 1) for s in scores]
    drawn = bootstrap_scores(rows, 2000, stream=3)
    assert drawn.mean() == pytest.approx(scores.mean(), abs=0.003)
    assert drawn.std() == pytest.approx(scores.std() / 300**0.5, rel=0.08)
    shifted = bootstrap_scores([(s + 0.1, 1, 1) for s in scores], 2000, stream=3)
    assert np.allclose(shifted - drawn, 0.1)  # the same items are picked
    assert not np.allclose(bootstrap_scores(rows, 2000, stream=4), drawn)
    assert f1(*np.sum(rows, axis=0)) == pytest.approx(scores.mean())
