"""Order: every record once an epoch, near where it lies, the same from anywhere. Turns: shares kept, no draw lost."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.order import Order, Turns

unhurried = settings(deadline=None, max_examples=60)
SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(sum)
SHARES = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5)


def drawn(order: Order, first: int, last: int) -> list[int]:
    found = []
    for k in range(first, last):
        epoch, window, place = order.place(k)
        found.append(int(order.reading(epoch, window)[order.shuffle(epoch, window)[place]]))
    return found


@unhurried
@given(SIZES, st.integers(1, 20), st.integers(0, 99))
def test_an_epoch_gives_every_record_once(sizes, buffer, seed):
    n = sum(sizes)
    found = drawn(Order(sizes, buffer, [seed]), 0, 3 * n)
    for epoch in range(3):
        assert sorted(found[epoch * n : (epoch + 1) * n]) == list(range(n))


@unhurried
@given(SIZES, st.integers(1, 20), st.integers(0, 99), st.data())
def test_a_draw_does_not_depend_on_those_before(sizes, buffer, seed, data):
    n = sum(sizes)
    start = data.draw(st.integers(0, 3 * n - 1))
    assert drawn(Order(sizes, buffer, [seed]), start, 3 * n) == drawn(Order(sizes, buffer, [seed]), 0, 3 * n)[start:]


@unhurried
@given(SIZES, st.integers(2, 20), st.integers(0, 99))
def test_stretches_are_read_whole_and_in_order_and_shuffled_inside_windows_only(sizes, buffer, seed):
    order = Order(sizes, buffer, [seed])
    windows = range(-(-order.n // buffer))
    read = np.concatenate([order.reading(1, w) for w in windows]).tolist()
    stretch = np.repeat(np.arange(len(sizes)), sizes)[read].tolist()
    assert sum(a != b for a, b in zip(stretch, stretch[1:])) == len([s for s in sizes if s]) - 1
    assert all(b == a + 1 for a, b, s, t in zip(read, read[1:], stretch, stretch[1:]) if s == t)
    for w in windows:
        first = order.n + w * buffer
        given_out = drawn(order, first, min(first + buffer, 2 * order.n))
        assert sorted(given_out) == sorted(read[w * buffer : (w + 1) * buffer])


def test_a_buffer_of_one_keeps_the_order_of_the_files_and_a_larger_one_does_not():
    assert drawn(Order([30, 20], 1, [0]), 0, 100) == [*range(50)] * 2
    epochs = drawn(Order([30, 20], 16, [0]), 0, 100)
    assert epochs[:50] != epochs[50:] and epochs[:50] != [*range(50)]


@unhurried
@given(SHARES, st.integers(0, 99))
def test_spans_join_without_gap_or_overlap_and_keep_the_shares(shares, seed):
    turns, span = Turns(shares, seed, [None] * len(shares)), 37.0
    joined = [draw for number in range(6) for draw in turns.between(number * span, (number + 1) * span)]
    assert joined == turns.between(0, 6 * span)
    for source, share in enumerate(shares):
        ks = [k for s, k in joined if s == source]
        assert ks == list(range(len(ks)))
        assert abs(len(ks) - 6 * span * share / sum(shares)) <= 1
    assert [len([1 for s, _ in joined if s == source]) for source in range(len(shares))] == turns.before(6 * span)


@unhurried
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 99))
def test_one_pass_gives_every_draw_once_and_then_ends(sizes, seed):
    turns = Turns(sizes, seed, sizes)
    found = turns.between(0, sum(sizes))
    assert sorted(found) == [(s, k) for s, size in enumerate(sizes) for k in range(size)]
    assert turns.between(sum(sizes), 10 * sum(sizes)) == []


def test_far_places_are_found_without_what_came_before():
    turns = Turns([2.0, 1.0], 0, [None, None])
    counts = turns.before(3e8)
    assert abs(counts[0] - 2e8) <= 1 and abs(counts[1] - 1e8) <= 1
