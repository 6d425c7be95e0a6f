"""Commit policies against plain-Python restatements of the published rules, and by the identities between them.

Scores are multiples of 1/64, so sums and products are exact and ties with a threshold really occur; the restatements
reckon in fractions, slot by slot.
"""

import dataclasses
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm.generation.commit import (
    BACD,
    CAD,
    POLICIES,
    Doubling,
    EntropyBounded,
    Explore,
    Factor,
    Hierarchical,
    Learn2PD,
    LocalLeap,
    RandomOrder,
    Sequential,
    Static,
    Threshold,
    WeDLM,
)
from vlm.generation.scoring import Scores

NAN, INF = math.nan, math.inf
WORST = Fraction(10) ** 300


@dataclasses.dataclass
class Grid:
    """A batch of open blocks, as a policy sees them."""

    probability: torch.Tensor  # [B, W]
    entropy: torch.Tensor  # [B, W]
    is_open: torch.Tensor  # [B, W]
    step: torch.Tensor  # [B]
    size: torch.Tensor  # [B]
    committed: torch.Tensor  # [B, W]

    def select(self, policy) -> torch.Tensor:
        token = torch.zeros_like(self.is_open, dtype=torch.long)
        half = self.probability / 2
        scores = Scores(token, self.probability, self.entropy, half, half, self.probability)
        return policy.select(scores, self.is_open, self.step, self.size, self.committed)

    def rows(self, index) -> "Grid":
        return Grid(*(getattr(self, f.name)[index] for f in dataclasses.fields(self)))

    def slots(self, index) -> "Grid":
        """The same blocks with their slots in another order."""
        grids = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Grid(**{name: grid[:, index] if grid.ndim == 2 else grid for name, grid in grids.items()})


def sixty_fourths(top: int):
    return st.integers(0, top).map(lambda k: k / 64)


@st.composite
def grids(draw, nan: bool = True, distinct: bool = False) -> Grid:
    """1 to 3 blocks of 1 to 9 slots; closed slots hold NaN scores."""
    height, width = draw(st.integers(1, 3)), draw(st.integers(1, 9))

    def floats(top: int, odd: st.SearchStrategy) -> torch.Tensor:
        eighths = st.integers(0, top // 8).map(lambda k: k / 8)  # many ties
        cell = st.one_of(sixty_fourths(top), eighths, odd) if nan else sixty_fourths(top)
        row = st.lists(cell, min_size=width, max_size=width, unique=distinct)
        return torch.tensor([draw(row) for _ in range(height)], dtype=torch.float64)

    flags = st.lists(st.booleans(), min_size=width, max_size=width)
    is_open = torch.tensor([draw(flags) for _ in range(height)])
    was_committed = ~is_open & torch.tensor([draw(flags) for _ in range(height)])  # others were known from the start
    probability, entropy = floats(64, st.just(NAN)), floats(160, st.sampled_from([NAN, INF]))
    return Grid(
        probability.masked_fill(~is_open, NAN),
        entropy.masked_fill(~is_open, NAN),
        is_open,
        torch.tensor([draw(st.integers(0, width)) for _ in range(height)]),
        is_open.sum(-1) + was_committed.sum(-1),
        floats(64, st.just(NAN)).masked_fill(~was_committed, NAN),
    )


taus = st.one_of(sixty_fourths(70), st.sampled_from([0.9, INF]))
policies = st.one_of(
    st.builds(Sequential, st.integers(1, 10)),
    st.builds(Static, st.one_of(st.none(), st.integers(1, 12))),
    st.builds(Threshold, taus, st.booleans()),
    st.builds(Factor, sixty_fourths(192)),
    st.builds(EntropyBounded, sixty_fourths(192)),
    st.tuples(taus, taus).map(lambda pair: BACD(min(pair), max(pair))),
    st.tuples(taus, taus, st.integers(0, 10)).map(lambda t: LocalLeap(max(t[:2]), min(t[:2]), t[2])),
    st.builds(WeDLM, sixty_fourths(192), sixty_fourths(16)),
    st.tuples(taus, st.integers(1, 9), st.integers(0, 9)).map(lambda t: CAD(t[0], t[1], t[1] + t[2])),
    st.just(Doubling()),
    st.builds(Explore, taus, st.integers(0, 4), st.integers(1, 9)),
    st.tuples(taus, taus, st.booleans()).map(lambda t: Hierarchical(max(t[:2]), min(t[:2]), t[2])),
    st.builds(Learn2PD, st.just(""), st.just(1.0), st.one_of(st.none(), st.integers(1, 12))),
)
# In these a slot's neighbours count, or its place from the left.
PLACED = Sequential | WeDLM | Explore | Hierarchical


def restated(policy, grid: Grid, row: int) -> set[int]:
    """What ``policy`` should commit in one block, reckoned slot by slot in fractions."""
    slots = [i for i, flag in enumerate(grid.is_open[row].tolist()) if flag]
    if not slots:
        return set()
    confidence, entropy = grid.probability[row].tolist(), grid.entropy[row].tolist()
    confidence = {i: -WORST if math.isnan(confidence[i]) else Fraction(confidence[i]) for i in slots}
    entropy = {i: Fraction(entropy[i]) if math.isfinite(entropy[i]) else WORST for i in slots}
    by_confidence = sorted(slots, key=lambda i: (-confidence[i], i))
    if isinstance(policy, Sequential):
        return set(slots[: policy.count])
    if isinstance(policy, Static | Learn2PD):  # a filter that accepts nothing leaves the quota
        return set(by_confidence[: static_schedule(policy.steps, grid.size[row].item(), grid.step[row].item())])
    if isinstance(policy, Threshold):
        passing = {i for i in slots if confidence[i] > policy.tau or confidence[i] == policy.tau and not policy.strict}
        return passing or {by_confidence[0]}
    if isinstance(policy, Factor):
        return restated_factor(policy.factor, by_confidence, confidence)
    if isinstance(policy, EntropyBounded):
        return restated_entropy(policy.gamma, sorted(slots, key=lambda i: (entropy[i], i)), entropy)
    if isinstance(policy, BACD):
        past = [Fraction(c) for c in grid.committed[row].tolist() if not math.isnan(c)]
        wanted = sum(past) / len(past) if past else max(confidence.values())
        tau = policy.low if wanted < policy.low else policy.high if wanted > policy.high else wanted
        return {i for i in slots if confidence[i] >= tau} or {by_confidence[0]}
    if isinstance(policy, LocalLeap):
        anchors = [i for i in slots if confidence[i] >= policy.tau]
        near = {i for i in slots for a in anchors if a - policy.radius <= i <= a + policy.radius}
        return {*anchors, *(i for i in near if confidence[i] >= policy.relaxed)} or {by_confidence[0]}
    if isinstance(policy, CAD):
        count = sum(confidence[i] >= policy.tau for i in slots)
        return set(by_confidence[: min(max(count, policy.least), policy.most)])
    if isinstance(policy, Doubling):
        return set(by_confidence[: 2 ** grid.step[row].item()])
    if isinstance(policy, Explore):
        chosen = {i for i in slots if confidence[i] >= policy.tau} or {by_confidence[0]}
        near = [i for i in slots if i not in chosen][: policy.reach]
        probe = max(near, key=lambda i: (unsure(grid, row, i), -i), default=None)
        return chosen | {probe} if len(chosen) < policy.least and near else chosen
    if isinstance(policy, Hierarchical):
        return restated_hierarchical(policy, slots, confidence)
    assert isinstance(policy, WeDLM)
    dear = {i: entropy[i] + (i - slots[0]) * Fraction(policy.penalty) if entropy[i] < WORST else WORST for i in slots}
    return {i for i in slots if dear[i] < policy.tau} or {min(slots, key=lambda i: (dear[i], i))}


def unsure(grid: Grid, row: int, slot: int) -> Fraction:
    """A slot's entropy, infinity the highest and NaN the lowest."""
    entropy = grid.entropy[row, slot].item()
    return -WORST if math.isnan(entropy) else Fraction(entropy) if math.isfinite(entropy) else WORST


def restated_hierarchical(policy: Hierarchical, slots: list[int], confidence: dict) -> set[int]:
    """Cuts the open slots into runs, then looks at each."""
    passes = (lambda c, bar: c > bar) if policy.strict else (lambda c, bar: c >= bar)
    runs: list[list[int]] = []
    for i in slots:
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    leaders = [max(run, key=lambda i: (confidence[i], -i)) for run in runs]
    chosen = {i for i in slots if passes(confidence[i], policy.tau)}
    return (
        chosen
        | {i for i in leaders if passes(confidence[i], policy.low)}
        | {max(slots, key=lambda i: (confidence[i], -i))}
    )


def static_schedule(steps: int | None, size: int, step: int) -> int:
    """Deals the slots out one at a time to the steps in turn; a step behind the last one gets a round."""
    steps = size if steps is None else min(steps, size)
    dealt = [0] * steps
    for slot in range(size):
        dealt[slot % steps] += 1
    return dealt[step] if step < steps else size // steps


def restated_factor(factor: float, ranked: list[int], confidence: dict) -> set[int]:
    """Tries every n, largest first."""
    for n in range(len(ranked), 1, -1):
        if (n + 1) * (1 - confidence[ranked[n - 1]]) < Fraction(factor):
            return set(ranked[:n])
    return {ranked[0]}


def restated_entropy(gamma: float, ranked: list[int], entropy: dict) -> set[int]:
    spent, chosen = Fraction(0), set()
    for i in ranked:
        spent += entropy[i]
        if chosen and spent >= gamma:
            break
        chosen.add(i)
    return chosen


@settings(max_examples=300, deadline=None)
@given(grids(), policies)
def test_every_policy_is_the_published_rule(grid: Grid, policy):
    chosen = grid.select(policy)
    for row, flags in enumerate(chosen.tolist()):
        assert {i for i, flag in enumerate(flags) if flag} == restated(policy, grid, row), f"{policy}, row {row}"


@settings(max_examples=100, deadline=None)
@given(grids(), policies, st.sampled_from([0.0, 1.0, -INF, INF, 1e300]))
def test_commits_within_the_open_slots_and_never_nothing(grid: Grid, policy, junk: float):
    chosen = grid.select(policy)
    assert chosen.dtype == torch.bool and chosen.shape == grid.is_open.shape
    assert not (chosen & ~grid.is_open).any()
    assert torch.equal(chosen.any(-1), grid.is_open.any(-1))
    grid.probability[~grid.is_open] = grid.entropy[~grid.is_open] = junk
    assert torch.equal(grid.select(policy), chosen), "scores of slots that are not open changed the choice"


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("name", sorted(POLICIES.keys() - {"learn2pd"}))
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_scores_that_are_all_nan_or_infinite_still_commit(value: float, name: str, dtype: torch.dtype):
    is_open = torch.tensor([[False, True, True], [False, False, False], [False, False, True]])
    bad = torch.full((3, 3), value, dtype=dtype)
    count = torch.tensor([2, 0, 1])
    chosen = Grid(bad, bad, is_open, torch.zeros_like(count), count, bad).select(POLICIES[name]())
    assert chosen.any(-1).tolist() == [True, False, True]
    assert not (chosen & ~is_open).any()


@settings(max_examples=100, deadline=None)
@given(grids(), policies, st.randoms(use_true_random=False))
def test_rows_do_not_see_each_other(grid: Grid, policy, random):
    alone = torch.cat([grid.rows([row]).select(policy) for row in range(len(grid.step))])
    order = random.sample(range(len(grid.step)), len(grid.step))
    assert torch.equal(grid.select(policy), alone)
    assert torch.equal(grid.rows(order).select(policy), alone[order])


@settings(max_examples=100, deadline=None)
@given(
    grids(nan=False, distinct=True),
    policies.filter(lambda policy: not isinstance(policy, PLACED)),
    st.randoms(use_true_random=False),
)
def test_rules_without_positions_do_not_care_for_the_order_of_slots(grid: Grid, policy, random):
    width = grid.is_open.shape[1]
    order = random.sample(range(width), width)
    if isinstance(policy, LocalLeap):
        order = list(range(width))[::-1]  # distances survive a reflection only
    assert torch.equal(grid.slots(order).select(policy), grid.select(policy)[:, order])


@settings(max_examples=100, deadline=None)
@given(grids(), taus, taus, st.integers(0, 9))
def test_asking_for_more_commits_a_subset(grid: Grid, a: float, b: float, radius: int):
    low, high = min(a, b), max(a, b)
    pairs = [  # (the more careful policy, the less careful one)
        (Threshold(high), Threshold(low)),
        (Threshold(low, strict=True), Threshold(low)),
        (Factor(low), Factor(high)),
        (EntropyBounded(low), EntropyBounded(high)),
        (BACD(low, high), BACD(low, low)),
        (BACD(high, high), BACD(low, high)),
        (LocalLeap(high, low, radius), LocalLeap(low, low, radius)),
        (LocalLeap(high, high, radius), LocalLeap(high, low, radius)),
        (LocalLeap(high, low, radius), LocalLeap(high, low, radius + 1)),
        (WeDLM(low), WeDLM(high)),
        (Sequential(1 + radius), Sequential(2 + radius)),
        (CAD(high, 1, 9), CAD(low, 1, 9)),
        (CAD(low, 1, 1 + radius), CAD(low, 1, 2 + radius)),
        (Explore(low, 0), Explore(low, 1 + radius)),
        (Hierarchical(high, low), Hierarchical(low, low)),
        (Hierarchical(high, low, strict=True), Hierarchical(high, low)),
        (Static(2 + radius), Static(1 + radius)),
    ]
    grid.step = torch.zeros_like(grid.step)
    for careful, bold in pairs:
        assert not (grid.select(careful) & ~grid.select(bold)).any(), f"{careful} exceeds {bold}"


@settings(max_examples=100, deadline=None)
@given(grids(), taus, st.integers(0, 9))
def test_identities_between_policies(grid: Grid, tau: float, radius: int):
    """Each policy, with what makes it special turned off, is another one."""
    top_1 = grid.select(Static(None))
    threshold = grid.select(Threshold(tau))
    for policy in (Threshold(INF), Threshold(1.0, strict=True), Factor(0), BACD(INF, INF), LocalLeap(INF, INF),
                   CAD(INF), Explore(INF, least=1), Hierarchical(INF, INF), Learn2PD(accept=1.0)):  # fmt: skip
        assert torch.equal(grid.select(policy), top_1), policy
    for policy in (BACD(tau, tau), LocalLeap(tau, tau, radius), LocalLeap(tau, tau / 2 if tau < INF else 0.0, 0),
                   CAD(tau, 1, 9), Explore(tau, least=0), Explore(tau, least=1), Hierarchical(tau, tau)):  # fmt: skip
        assert torch.equal(grid.select(policy), threshold), policy
    lowest_entropy = grid.select(EntropyBounded(0))
    assert torch.equal(grid.select(WeDLM(tau=0, penalty=0)), lowest_entropy)
    assert torch.equal(grid.select(WeDLM(tau=-INF, penalty=0)), lowest_entropy)
    assert torch.equal(lowest_entropy.sum(-1) == 1, grid.is_open.any(-1))


@settings(max_examples=50, deadline=None)
@given(grids(nan=False, distinct=True))
def test_policies_at_their_extremes(grid: Grid):
    left_to_right = grid.select(Sequential(1))
    assert torch.equal(grid.select(WeDLM(tau=0, penalty=1000.0)), left_to_right), "distance outweighs every entropy"
    for policy in (Sequential(9), Static(1), Threshold(0), Factor(INF), EntropyBounded(INF), BACD(0, 0), WeDLM(INF)):
        grid.step, grid.size = torch.zeros_like(grid.step), grid.is_open.sum(-1)
        assert torch.equal(grid.select(policy), grid.is_open), policy
    grid.committed = torch.full_like(grid.probability, NAN)
    assert torch.equal(grid.select(BACD(0.25, 0.75)), grid.select(Threshold(0.75))), "BACD in a fresh block"
    narrow = grid.slots([0])
    for name, make in POLICIES.items():
        if name != "learn2pd":  # its default wants a filter
            assert torch.equal(narrow.select(make()), narrow.is_open), "a block of one slot leaves no choice"


@settings(max_examples=50, deadline=None)
@given(grids(), st.integers(1, 4), st.integers(0, 5))
def test_policies_with_an_order_of_their_own_say_ahead_what_they_take(grid: Grid, count: int, seed: int):
    for policy in (Sequential(count), RandomOrder(count, seed)):
        for row, chosen in zip(grid.is_open, grid.select(policy)):
            open_slots = row.nonzero().flatten().tolist()
            assert policy.ahead(open_slots) == chosen.nonzero().flatten().tolist()
    places = {tuple(RandomOrder(1, seed).ahead([*range(32)])) for seed in range(64)}
    assert len(places) > 16, "a seed makes an order"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.one_of(st.none(), st.integers(1, 12)), st.integers(0, 2**20))
def test_a_static_block_takes_exactly_its_steps(size: int, steps: int | None, seed: int):
    generator = torch.Generator().manual_seed(seed)
    is_open = torch.zeros(1, 9, dtype=torch.bool)
    is_open[0, torch.randperm(9, generator=generator)[:size]] = True
    counts = []
    for at in range(min(steps or size, size)):
        score = torch.rand(1, 9, generator=generator)
        chosen = Grid(score, score, is_open, torch.tensor([at]), torch.tensor([size]), score).select(Static(steps))
        counts.append(int(chosen.sum()))
        is_open &= ~chosen
    assert not is_open.any()
    assert counts == sorted(counts, reverse=True) and counts[0] - counts[-1] <= 1


@pytest.mark.parametrize("size", range(1, 34))
def test_doubling_takes_the_fewest_powers_of_two_that_sum_to_the_block(size: int):
    is_open, steps = torch.ones(1, size, dtype=torch.bool), 0
    while is_open.any():
        score = torch.rand(1, size)
        grid = Grid(score, score, is_open, torch.tensor([steps]), torch.tensor([size]), score)
        is_open, steps = is_open & ~grid.select(Doubling()), steps + 1
    assert steps == math.ceil(math.log2(size + 1))


def choose(policy, probability: list[float], entropy: list[float] | None = None, committed=None) -> list[int]:
    """Slots that ``policy`` commits in one block, open where nothing is committed."""
    width = len(probability)
    rows = probability, entropy or [0.0] * width, committed or [NAN] * width
    score, doubt, past = (torch.tensor([row], dtype=torch.float64) for row in rows)
    grid = Grid(score, doubt, past.isnan(), torch.tensor([0]), torch.tensor([width]), past)
    return grid.select(policy)[0].nonzero().flatten().tolist()


def test_worked_examples():
    """By hand, with the papers' own numbers where they have any."""
    assert choose(Factor(1.0), [0.2, 0.99]) == [1], "the released code commits both"
    assert choose(Factor(1.0), [0.9, 0.8, 0.75, 0.7]) == [0, 1]  # 3 x 0.2 < 1, but 4 x 0.25 is not
    assert choose(Factor(1.0), [1.0000001, 1.0, 0.5]) == [0, 1]
    assert choose(Factor(0.0), [1.0000001, 1.0000002, 0.5]) == [1]  # a confidence above 1 earns nothing extra
    assert choose(Threshold(), [0.9, 0.95, 0.89]) == [0, 1]
    assert choose(Threshold(strict=True), [0.9, 0.95, 0.89]) == [1]
    assert choose(EntropyBounded(), [0.0] * 4, [0.2, 0.1, 0.05, 0.1]) == [1, 2, 3]  # 0.05 + 0.1 + 0.1 + 0.2 >= 0.35
    assert choose(EntropyBounded(), [0.0] * 2, [2.0, 1.0]) == [1]
    assert choose(LocalLeap(), [0.76, 0.74, 0.8, 0.8, 0.8, 0.95, 0.7, 0.1, 0.1, 0.75]) == [2, 3, 4, 5, 9]
    assert choose(LocalLeap(), [0.8, 0.85, 0.8]) == [1], "without an anchor nothing is relaxed"
    assert choose(BACD(), [0.7, 0.75, 0.0], committed=[NAN, NAN, 0.72]) == [1]
    assert choose(BACD(), [0.7, 0.75, 0.0], committed=[NAN, NAN, 0.1]) == [0, 1], "a poor history lowers tau to 0.6"
    assert choose(BACD(), [0.7, 0.7, 0.65]) == [0, 1], "a fresh block asks for its best confidence"
    assert choose(BACD(), [0.91, 0.89, 0.0], committed=[NAN, NAN, 0.99]) == [0], "a good one raises it to 0.9"
    assert choose(WeDLM(0.4, 0.1), [0.0] * 4, [0.35, 0.35, 0.1, 0.2]) == [0, 2]
    assert choose(CAD(0.9, 2, 3), [0.1, 0.2, 0.95, 0.3]) == [2, 3], "no fewer than two"
    assert choose(CAD(0.9, 1, 2), [0.91, 0.92, 0.95, 0.3]) == [1, 2], "no more than two"
    assert choose(Explore(0.9, 2, 2), [0.95, 0.1, 0.2, 0.3], [0.1, 1.0, 2.0, 3.0]) == [0, 2], "of the two leftmost"
    past = [NAN, NAN, 0.9, NAN, NAN]
    assert choose(Hierarchical(), [0.3, 0.5, 0.0, 0.4, 0.2], committed=past) == [1, 3], "one of each run"
    assert choose(Hierarchical(strict=True), [0.3, 0.5, 0.0, 0.4, 0.2], committed=past) == [1]
    assert choose(WeDLM(0.3 + 1e-9, 0.1), [0.0] * 4) == [0, 1, 2, 3], "the penalty is as precise as the entropy"
    assert choose(WeDLM(0.0, 0.1), [0.0] * 4, [0.35, 0.35, 0.1, 0.2]) == [2]


def test_bacd_without_a_history_is_refused():
    grid = torch.rand(1, 4)
    scores = Scores(torch.zeros(1, 4, dtype=torch.long), grid, grid, grid, grid, grid)
    one = torch.tensor([1])
    with pytest.raises(ValueError, match="BACD needs the confidences"):
        BACD().select(scores, grid > 0, one, one)
    assert Threshold().select(scores, grid > 0, one, one).any(), "no other policy reads it"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sequential(0), "count 0 must be at least 1"),
        (lambda: Static(0), "steps 0 must be at least 1"),
        (lambda: Threshold(NAN), "tau nan must be a number"),
        (lambda: Factor(-0.5), "factor -0.5 must be at least 0"),
        (lambda: Factor(NAN), "factor nan must be at least 0"),
        (lambda: EntropyBounded(-1), "gamma -1 must be at least 0"),
        (lambda: EntropyBounded(NAN), "gamma nan must be at least 0"),
        (lambda: BACD(0.9, 0.6), "low 0.9 must be a number no greater than high 0.6"),
        (lambda: BACD(NAN, 0.6), "low nan must be a number no greater than high 0.6"),
        (lambda: BACD(0.6, NAN), "high nan must be a number"),
        (lambda: LocalLeap(0.7), "relaxed 0.75 must be a number no greater than tau 0.7"),
        (lambda: LocalLeap(NAN), "tau nan must be a number"),
        (lambda: LocalLeap(radius=-1), "radius -1 must be at least 0"),
        (lambda: WeDLM(NAN), "tau nan must be a number"),
        (lambda: CAD(least=0), "least 0 must be at least 1"),
        (lambda: CAD(least=3, most=2), "most 2 must be at least 3, as many as least"),
        (lambda: Explore(reach=0), "reach 0 must be at least 1"),
        (lambda: Hierarchical(0.3), "low 0.4 must be a number no greater than tau 0.3"),
        (lambda: Learn2PD(steps=0), "steps 0 must be at least 1"),
        (lambda: WeDLM(penalty=-0.1), "penalty -0.1 must be a finite number of at least 0"),
        (lambda: WeDLM(penalty=INF), "penalty inf must be a finite number of at least 0"),
    ],
)
def test_illegal_parameters_name_the_field_and_the_value(make, message: str):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


def test_policies_are_hashable_values_with_the_published_defaults():
    assert {name: make() for name, make in POLICIES.items()} == {
        "sequential": Sequential(1),
        "random": RandomOrder(1, 0),
        "static": Static(None),
        "threshold": Threshold(0.9, strict=False),
        "factor": Factor(1.0),
        "entropy": EntropyBounded(0.35),
        "bacd": BACD(0.6, 0.9),
        "localleap": LocalLeap(0.9, 0.75, 4),
        "wedlm": WeDLM(0.4, 0.02),
        "cad": CAD(0.95, 1, 32),
        "doubling": Doubling(),
        "explore": Explore(0.9, 2, 4),
        "hierarchical": Hierarchical(0.9, 0.4),
        "learn2pd": Learn2PD("", 0.9, None),
    }
    assert len({make() for make in POLICIES.values()}) == len(POLICIES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Threshold().tau = 0.5
