"""Scores against their definitions: brute force, published values, resampling by hand."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import bootstrap_interval, exact_match, f1, normalise, slot_counts, wilson_interval

things = st.lists(
    st.dictionaries(st.sampled_from(["shape", "color", "size"]), st.sampled_from("ab"), max_size=3), max_size=5
)


def best_by_permutations(predicted, expected):
    """Every way to give each thing of the shorter list its own partner in the longer one."""
    short, long = sorted((predicted, expected), key=len)
    agree = lambda chosen: sum(len(a.items() & b.items()) for a, b in zip(short, chosen))  # noqa: E731
    return max(agree(chosen) for chosen in permutations(long, len(short)))


@settings(deadline=None, max_examples=200)
@given(things, things)
def test_slot_matching_is_the_best_of_all_permutations(predicted, expected):
    matched, n_predicted, n_expected = slot_counts(predicted, expected)
    assert matched == best_by_permutations(predicted, expected)
    assert (n_predicted, n_expected) == (sum(map(len, predicted)), sum(map(len, expected)))
    assert slot_counts(expected, predicted) == (matched, n_expected, n_predicted)


def test_a_greedy_matching_would_lose_a_slot():
    """The first thing agrees best with what the second thing needs alone."""
    predicted = [{"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "1", "c": "2"}]
    expected = [{"a": "1", "b": "1", "c": "9"}, {"a": "8", "b": "1", "c": "1"}]
    assert slot_counts(predicted, expected)[0] == 4


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_f1_is_the_harmonic_mean_of_precision_and_recall(matched, extra, missed):
    predicted, expected = matched + extra, matched + missed
    if matched == 0:
        assert f1(0, predicted, expected) == (1.0 if predicted + expected == 0 else 0.0)
        return
    precision, recall = matched / predicted, matched / expected
    assert f1(matched, predicted, expected) == pytest.approx(2 / (1 / precision + 1 / recall))


@pytest.mark.parametrize(
    "successes, n, low, high",  # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_has_the_published_values(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=6e-5)
    assert wilson_interval(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=6e-5)


@given(st.integers(1, 500), st.data())
def test_wilson_limits_are_where_the_score_test_stands_at_z(n, data):
    """The definition: |p - limit| = z sqrt(limit (1 - limit) / n) at each limit inside (0, 1)."""
    p = data.draw(st.integers(0, n)) / n
    low, high = wilson_interval(p * n, n)
    assert 0 <= low <= p + 1e-12 and p - 1e-12 <= high <= 1
    for limit in (low, high):
        assert (p - limit) ** 2 == pytest.approx(1.96**2 * limit * (1 - limit) / n, abs=1e-12)


def test_without_items_nothing_is_known():
    assert wilson_interval(0, 0) == (0.0, 1.0) and bootstrap_interval([]) == (0.0, 1.0)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=12))
def test_bootstrap_interval_contains_the_point_estimate(rows):
    counts = [(matched, matched + a, matched + b) for matched, a, b in rows]
    low, high = bootstrap_interval(counts)
    assert 0 <= low <= f1(*np.sum(counts, axis=0)) <= high <= 1
    assert bootstrap_interval(counts) == (low, high)  # a report says the same twice


def test_bootstrap_interval_of_equal_items_is_a_point():
    for counts in ((3, 4, 4), (0, 4, 4), (4, 4, 4), (0, 0, 0)):
        low, high = bootstrap_interval([counts] * 7)
        assert low == high == f1(*counts)


def test_bootstrap_interval_of_single_slots_is_that_of_a_proportion():
    """Items of one slot make micro-F1 the share of right ones, whose resampled spread is the binomial one."""
    n, right = 400, 300
    low, high = bootstrap_interval([(1, 1, 1)] * right + [(0, 1, 1)] * (n - right), draws=4000)
    spread = 1.96 * (0.75 * 0.25 / n) ** 0.5
    assert (low, high) == pytest.approx((0.75 - spread, 0.75 + spread), abs=0.006)


@pytest.mark.parametrize("answer", ["top left", "Top  left.", " top\nleft .", "TOP\tLEFT", "top left. "])
def test_equal_short_answers(answer):
    assert exact_match(answer, "top left") == 1.0


@pytest.mark.parametrize("answer", ["", ".", "topleft", "top left right", "top, left", "7.50", "-4", "14"])
def test_different_short_answers(answer):
    assert exact_match(answer, "top left") == exact_match(answer, "4") == exact_match(answer, "75.0") == 0.0


@given(st.text(max_size=12))
def test_normalising_twice_changes_nothing(text):
    once = normalise(text)
    assert normalise(once) == once and once == once.strip() and not once.endswith(".")
