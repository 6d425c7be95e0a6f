"""Packs: nothing lost, nothing cut, nothing over the budget, and nearly full on lengths as they come."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.batching import length_buckets
from data_pipelines.errors import DataError
from data_pipelines.packing import Packs, best_fit, packed_batches

unhurried = settings(deadline=None)
COSTS = st.lists(st.integers(1, 60), max_size=80)
BUDGET, WINDOW = st.integers(1, 150), st.integers(1, 30)


def packed(costs, budget, window, over_length="drop", seed=0):
    """Packs of (index, cost) samples: the index tells equal costs apart."""
    return Packs(enumerate(costs), lambda s: s[1], budget, window, seed, over_length, name=lambda s: f"s{s[0]}")


@unhurried
@given(COSTS, BUDGET, WINDOW)
def test_every_sample_is_in_one_pack_or_listed_as_dropped(costs, budget, window):
    packs = packed(costs, budget, window)
    found = list(packs)
    assert all(pack and sum(cost for _, cost in pack) <= budget for pack in found)
    assert sorted(s for pack in found for s in pack) == [(i, c) for i, c in enumerate(costs) if c <= budget]
    assert packs.dropped == [(f"s{i}", c) for i, c in enumerate(costs) if c > budget]
    assert packs.fill == pytest.approx(sum(c for c in costs if c <= budget) / (len(found) * budget) if found else 1)


@unhurried
@given(st.lists(st.integers(1, 60), max_size=60), st.integers(60, 150))
def test_best_fit_restated(costs, budget):
    """Each sample stands in the fullest pack that could take it when its turn came; a new one only if none could."""
    packs = best_fit(costs, budget)
    order = sorted(range(len(costs)), key=lambda i: (-costs[i], i))
    filled = [0] * len(packs)
    where = {i: n for n, pack in enumerate(packs) for i in pack}
    opened = 0
    for i in order:
        open_rooms = [budget - used for used in filled[:opened] if budget - used >= costs[i]]
        if open_rooms:
            assert where[i] < opened and budget - filled[where[i]] == min(open_rooms)
        else:
            assert where[i] == opened
            opened += 1
        filled[where[i]] += costs[i]


@unhurried
@given(COSTS, BUDGET)
def test_a_sample_above_the_budget_is_a_pack_of_its_own_where_that_is_asked_for(costs, budget):
    packs = packed(costs, budget, 100, over_length="alone")
    found = list(packs)
    assert sorted(s for pack in found for s in pack) == list(enumerate(costs)) and not packs.dropped
    assert all(len(pack) == 1 or sum(cost for _, cost in pack) <= budget for pack in found)
    assert sum(2 * sum(cost for _, cost in pack) <= budget for pack in found) <= 1  # two half empty would be one
    assert packs.fill <= 1


@unhurried
@given(COSTS, BUDGET, st.integers(1, 400), st.integers(0, 9))
def test_batches_of_packs_hold_every_sample_once_and_keep_both_budgets(costs, capacity, budget, seed):
    def cut(seed):
        return list(packed_batches(enumerate(costs), lambda s: s[1], capacity, budget, seed))

    batches = cut(seed)
    assert sorted(s for batch in batches for pack in batch for s in pack) == list(enumerate(costs))
    for batch in batches:
        used = [sum(cost for _, cost in pack) for pack in batch]
        assert all(n <= min(capacity, budget) or len(pack) == 1 for n, pack in zip(used, batch))
        assert max(used) * len(batch) <= budget or len(batch) == 1 == len(batch[0])
    other = cut(seed + 1)  # the same packs in another order
    assert cut(seed) == batches and sorted(p for b in other for p in b) == sorted(p for b in batches for p in b)


def realistic_costs() -> list[int]:
    """Short captions, picture questions of 300 to 900 tokens, long documents and clips; some 20 000 samples."""
    rng = np.random.default_rng(0)
    short, pictures = rng.lognormal(4.0, 0.6, 8000), rng.normal(600, 120, 9000).clip(300, 900)
    long = rng.lognormal(7.4, 0.5, 3000)
    costs = np.concatenate([short, pictures, long]).round().astype(int).clip(1)
    rng.shuffle(costs)
    return costs.tolist()


@pytest.mark.parametrize("capacity, budget, size", [(8192, 8192, 512), (8192, 16384, 1024)])
def test_batches_of_packs_use_their_budget_on_a_realistic_mix(capacity, budget, size):
    """In windows of 512, as training cuts them by default, or larger; length buckets stay below."""
    costs = [cost for cost in realistic_costs() if cost <= capacity]
    windows = [costs[at : at + size] for at in range(0, len(costs), size)]
    batches = [b for n, window in enumerate(windows) for b in packed_batches(window, int, capacity, budget, n)]
    buckets = list(length_buckets(costs, int, budget, size, 0))
    assert sorted(cost for batch in batches for pack in batch for cost in pack) == sorted(costs)
    assert sum(costs) / (len(batches) * budget) >= 0.97 > sum(costs) / (len(buckets) * budget)


def test_fill_on_a_realistic_mix_of_lengths():
    costs = np.array(realistic_costs())
    packs = packed(costs.tolist(), 4096, 1024)
    for pack in packs:
        assert sum(c for _, c in pack) <= 4096
    assert packs.fill >= 0.97
    assert len(packs.dropped) == int((costs > 4096).sum()) > 0


def test_the_same_seed_gives_the_same_packs_and_another_another_order():
    costs = list(range(1, 60))
    assert list(packed(costs, 100, 30)) == list(packed(costs, 100, 30))
    other = list(packed(costs, 100, 30, seed=1))
    assert other != list(packed(costs, 100, 30)) and sorted(other) == sorted(packed(costs, 100, 30))


def test_over_length_is_an_error_where_that_is_asked_for():
    with pytest.raises(DataError, match="sample s1: 11 tokens, more than the budget of 10"):
        list(packed([3, 11], 10, 4, over_length="error"))
    with pytest.raises(ValueError, match="at least 1"):
        packed([], 0, 4)
