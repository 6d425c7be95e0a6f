"""The suite's questions and scores: right answers score 1 in every family, wrong ones less, garbage 0."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.playground import item
from data_pipelines.playground.describe import describe
from data_pipelines.playground.scene import Scene, Thing
from data_pipelines.record import media_parts
from eval.suites.playground import ATTRIBUTES, FAMILIES, SLOT_PARSERS, families_named, question, score

SLOT_FAMILIES = tuple(SLOT_PARSERS)
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(ATTRIBUTES), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_expected_answer_scores_one_and_another_items_less(family):
    questions = [question(family, 1, index) for index in range(6)]
    for asked in questions:
        value, counts = score(family, asked.expected, asked.expected)
        assert value == 1.0
        assert (counts is not None) == (family in SLOT_FAMILIES)
        others = [other.expected for other in questions if other.expected != asked.expected]
        assert all(score(family, other, asked.expected)[0] < 1.0 for other in [*others, "", "no idea"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_and_an_index_name_one_question(family):
    one, again = question(family, 3, 5), question(family, 3, 5)
    frames = lambda asked: [frame for m in asked.media for frame in (m if isinstance(m, list) else [m])]  # noqa: E731
    assert (one.question, one.expected) == (again.question, again.expected)
    assert all(np.array_equal(a, b) for a, b in zip(frames(one), frames(again), strict=True))
    looks = {(q.question, frames(q)[0].tobytes()) for q in (one, question(family, 3, 6), question(family, 4, 5))}
    assert len(looks) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_question_shows_its_media_and_asks_the_held_out_items_first_turn(family):
    asked, made = question(family, 1, 2), item(family, "heldout", 1, 2)
    [message] = asked.messages
    kinds = [part["type"] for part in media_parts(asked.messages)]
    assert kinds == ([made.kind] if made.kind == "video" else ["image"] * len(made.media))
    assert len(asked.media) == len(kinds)
    assert message["content"][-1] == {"type": "text", "text": made.turns[0].question}
    assert asked.expected == made.turns[0].answer


def test_slots_of_a_description_are_counted_thing_by_thing():
    star, circle = Thing("star", "red", "small", 0.2, 0.2, 0.06), Thing("circle", "blue", "large", 0.5, 0.5, 0.15)
    say = lambda *things: describe(Scene(things, 96, 96, (0, 0, 0)))  # noqa: E731
    truth = say(star, circle)
    assert score("describe", say(star, replace(circle, color="green")), truth) == (7 / 8, (7, 8, 8))
    assert score("describe", say(star), truth) == (2 * 4 / 12, (4, 4, 8))
    assert score("describe", say(circle, star), truth) == (1.0, (8, 8, 8))
    assert score("describe", say(circle, star, circle), truth) == (2 * 8 / 20, (8, 12, 8))


def test_a_json_answer_may_be_spaced_and_ordered_otherwise():
    expected = question("json", 1, 0).expected
    things = json.loads(expected)
    again = json.dumps([dict(reversed(thing.items())) for thing in reversed(things)], indent=2)
    assert score("json", again, expected)[0] == 1.0
    assert score("json", json.dumps([{**thing, "mood": "glad"} for thing in things]), expected)[0] == 1.0
    assert score("json", expected[:-1], expected) == (0.0, (0, 0, 4 * len(things)))


GARBAGE = [
    "",
    "[",
    "[]",
    "null",
    "[null]",
    '["red"]',
    '{"shape": "star"}',
    "[[[]]]",
    "[" * 3000,
    "[" * 10**5,
    "1" * 5000,
]
NESTED = '[{"color": ' + "[" * 800 + "]" * 800 + "}]"


@pytest.mark.parametrize("family", SLOT_FAMILIES)
def test_known_garbage_scores_zero(family):
    expected = question(family, 1, 0).expected
    for answer in [*GARBAGE, NESTED, "A red star.", "a\x00b", "\ud800", '[{"shape": 1e999, "color": null}]']:
        value, counts = score(family, answer, expected)
        assert value == 0.0 and counts[0] == 0, answer[:40]


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(SLOT_FAMILIES), st.text(max_size=60))
def test_no_text_at_all_crashes_a_score(family, answer):
    expected = question(family, 1, 0).expected
    assert score(family, answer, expected)[0] == 0.0


@settings(deadline=None, max_examples=150)
@given(json_values)
def test_no_json_at_all_crashes_a_score_or_reaches_one(value):
    value, counts = score("json", json.dumps(value), question("json", 1, 0).expected)
    assert value == 0.0 and counts[0] == 0


def test_families_by_name():
    assert families_named(None) == list(FAMILIES)
    assert families_named("video,json,video") == ["video", "json"]
    with pytest.raises(ValueError, match="unknown family 'jsno'; did you mean json"):
        families_named("video,jsno")
    with pytest.raises(ValueError, match="unknown family ''"):
        families_named("")
