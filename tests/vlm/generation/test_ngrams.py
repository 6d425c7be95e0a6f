"""The n-gram model of a request's own text against counts restated from the text."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm.generation.ngrams import NGrams

VOCAB = 6
TEXTS = st.lists(st.integers(0, VOCAB - 1), max_size=25)


def restated(text: list[int], token: int, history: list[int]) -> float:
    """Witten and Bell's estimate, from the longest history down, by looking through the text each time."""
    if not history:
        followers, shorter = text, 1 / VOCAB
    else:
        n = len(history)
        followers = [text[i + n] for i in range(len(text) - n) if text[i : i + n] == history]
        shorter = restated(text, token, history[1:])
    kinds = len(set(followers))
    if not followers:
        return shorter
    return (followers.count(token) + kinds * shorter) / (len(followers) + kinds)


@settings(deadline=None, max_examples=60)
@given(TEXTS, TEXTS, st.integers(1, 4))
def test_probabilities_are_those_counted_in_the_text_and_sum_to_one(first, second, order):
    model = NGrams(order, VOCAB)
    model.add(first)
    model.add(second)
    text = first + second
    assert list(model.tail) == text[-(order - 1) :] if order > 1 else model.tail == ()
    for history in (model.tail, (1, 2, 3)[: order - 1], ()):
        found = [math.exp(model.log_probability(token, history)) for token in range(VOCAB)]
        assert found == pytest.approx([restated(text, token, list(history)) for token in range(VOCAB)])
        assert sum(found) == pytest.approx(1)


def test_what_repeats_is_expected_and_the_unseen_is_possible():
    model = NGrams(3, 1000)
    model.add([7, 8, 9, 7, 8, 9, 7, 8])
    assert max(range(1000), key=lambda token: model.log_probability(token, model.tail)) == 9
    assert -12 < model.log_probability(500, model.tail) < math.log(1 / 1000)
