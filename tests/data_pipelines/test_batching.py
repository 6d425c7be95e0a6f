"""Length buckets: nothing lost, nothing over budget, nothing read too early, nothing left to chance."""

from itertools import count, islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.batching import length_buckets

unhurried = settings(deadline=None)
COSTS = st.lists(st.integers(1, 60), max_size=80)
BUDGET, WINDOW, SEED = st.integers(1, 150), st.integers(1, 30), st.integers(0, 2**31)


def batches_of(costs, budget, window, seed):
    """Batches of (index, cost) samples: the index tells equal costs apart."""
    return list(length_buckets(enumerate(costs), lambda s: s[1], budget, window, seed))


@unhurried
@given(COSTS, BUDGET, WINDOW, SEED)
def test_every_sample_once_and_padded_cost_within_budget(costs, budget, window, seed):
    batches = batches_of(costs, budget, window, seed)
    assert sorted(s for batch in batches for s in batch) == list(enumerate(costs))
    for batch in batches:
        assert len(batch) == 1 or max(c for _, c in batch) * len(batch) <= budget


@unhurried
@given(COSTS, BUDGET, WINDOW, SEED)
def test_windows_come_out_whole_and_in_order(costs, budget, window, seed):
    order = [index for batch in batches_of(costs, budget, window, seed) for index, _ in batch]
    for start in range(0, len(costs), window):
        assert sorted(order[start : start + window]) == list(range(start, min(start + window, len(costs))))


@unhurried
@given(COSTS, BUDGET, WINDOW, SEED)
def test_no_two_neighbouring_batches_could_take_one_more(costs, budget, window, seed):
    """Within a window the batches are runs of the sorted samples, and none stops before it must."""
    batches = batches_of(costs, budget, window, seed)
    for start in range(0, len(costs), window):
        own = sorted((b for b in batches if b[0][0] // window == start // window), key=lambda b: (b[0][1], b[0][0]))
        run = [s for batch in own for s in batch]
        assert run == sorted(run, key=lambda s: (s[1], s[0]))
        for batch, following in zip(own, own[1:], strict=False):
            assert (len(batch) + 1) * following[0][1] > budget


@unhurried
@given(COSTS, BUDGET, WINDOW, SEED)
def test_same_seed_same_batches(costs, budget, window, seed):
    assert batches_of(costs, budget, window, seed) == batches_of(costs, budget, window, seed)


@unhurried
@given(COSTS, BUDGET, WINDOW, SEED, SEED)
def test_seed_changes_only_the_order_of_batches(costs, budget, window, one, other):
    assert sorted(batches_of(costs, budget, window, one)) == sorted(batches_of(costs, budget, window, other))


def test_order_follows_the_seed_and_differs_between_windows():
    costs = list(range(1, 21)) * 2
    orders = [[c for ((_, c),) in batches_of(costs, 1, 20, seed)] for seed in range(5)]
    assert len({tuple(o) for o in orders}) == 5
    assert all(sorted(o[:20]) == sorted(o[20:]) and o[:20] != o[20:] for o in orders)


def test_infinite_source_is_read_one_window_ahead_and_cost_asked_once():
    read, asked = [], []
    source = (read.append(i) or i for i in count())
    stream = length_buckets(source, lambda i: asked.append(i) or 1 + i % 7, budget=14, window=10, seed=0)
    assert read == []
    next(stream)
    assert read == asked == list(range(10))
    assert len(list(islice(stream, 200))) == 200
    assert asked == read == sorted(set(read))


def test_sample_above_the_budget_is_alone():
    assert sorted(batches_of([5, 99, 5, 99], 10, 4, 0)) == [[(0, 5), (2, 5)], [(1, 99)], [(3, 99)]]


def test_sorting_saves_padding():
    costs = [1 + (37 * i) % 64 for i in range(64)]
    padded = [sum(max(c for _, c in b) * len(b) for b in batches_of(costs, 256, w, 0)) for w in (8, 64)]
    assert sum(costs) <= padded[1] < padded[0]


def test_window_of_nothing_is_refused():
    with pytest.raises(ValueError, match="window"):
        next(length_buckets([1], lambda s: 1, budget=1, window=0, seed=0))
