"""Scoring, finish and spans strategies one by one: worked examples, and whole answers that follow from a rule."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.vlm.generation.sharp import sharp_model
from tests.vlm.tiny import greedy, tiny_model
from vlm.attention import Rows
from vlm.cache import BlockCache
from vlm.generation.blocks import Blocks, _select
from vlm.generation.commit import Static, Threshold
from vlm.generation.early import EndLast, EoTP, Prophet, Stable
from vlm.generation.finish import Cut, Finish, Repetition
from vlm.generation.generate import answer
from vlm.generation.learn2pd import accepted, features
from vlm.generation.loop import Loop
from vlm.generation.request import Request
from vlm.generation.rescore import EOSER, Credit, Entropy, EosGate, Gap, Margin
from vlm.generation.scoring import Sampler, Scores
from vlm.generation.strategy import build_strategy

NAN = float("nan")


def blocks(probability: list[float], **other) -> Blocks:
    """One block; slots with a confidence under ``committed`` are filled."""
    width = len(probability)
    committed = torch.tensor([other.get("committed", [NAN] * width)])
    grid = {name: torch.tensor([other.get(name, probability)]) for name in ("entropy", "margin", "gap")}
    p = torch.tensor([probability])
    ends = torch.tensor([other.get("ends", [False] * width)])
    column = {"step": 0, "size": width, "first_end": width, "progress": 0.0, "stable": 0}
    column = {name: torch.tensor([other.get(name, value)]) for name, value in column.items()}
    scores = Scores(torch.zeros(1, width, dtype=torch.long), p, grid["entropy"], grid["margin"], grid["gap"], p)
    return Blocks(scores, committed.isnan(), committed=committed, is_end=ends, **column)


def chosen(rules, made: Blocks, policy=None) -> list[int]:
    return _select(policy or Static(), tuple(rules), made)[0].nonzero().flatten().tolist()


def test_the_gap_is_that_of_the_logits():
    logits = torch.randn(9, 30, dtype=torch.float64) * 3
    top = logits.topk(2).values
    found = Sampler().propose(logits, [])
    torch.testing.assert_close(found.gap, top[:, 0] - top[:, 1])
    assert torch.equal(found.rank, found.probability)
    assert Sampler().propose(torch.tensor([[0.0, -torch.inf]]), []).gap.item() == float("inf")


@pytest.mark.parametrize("rule, field, best", [(Margin(), "margin", 1), (Gap(), "gap", 1), (Entropy(), "entropy", 2)])
def test_ranks_decide_the_best_slot_and_thresholds_do_not_read_them(rule, field, best):
    made = blocks([0.9, 0.5, 0.6], **{field: [0.5, 0.8, 0.1]})
    assert chosen([rule], made) == [best] and chosen([], made) == [0]
    assert chosen([rule], made, Threshold(0.85)) == sorted({0, best})


def test_eoser_lowers_ends_and_lets_go_with_time():
    made = blocks([0.9, 0.5, 0.4], ends=[True, False, False])
    assert chosen([EOSER(0.4)], made) == [1], "0.9 x 0.4 < 0.5"
    assert chosen([EOSER(0.6)], made) == [0]
    late = blocks([0.9, 0.5, 0.4], ends=[True, False, False], step=2)
    assert chosen([EOSER(0.4)], late) == [0], "the factor is 1 in the last of three steps"
    for step, factor in ((0, 0.01 + 0.99 / 4), (1, 0.01 + 0.99 * 3 / 4), (2, 1.0)):  # T = 2 for three slots
        at = blocks([0.9, 0.5, 0.4], ends=[True, False, False], step=step)
        rank = EOSER(0.01, doubling=True).rescore(at, at.scores.rank)
        assert rank[0].tolist() == pytest.approx([0.9 * factor, 0.5, 0.4])


def test_the_gate_defers_ends_unless_there_is_nothing_else():
    ends = [True, False, True]
    assert chosen([EosGate(0.3)], blocks([0.9, 0.2, 0.8], ends=ends, progress=0.2)) == [1]
    assert chosen([EosGate(0.3)], blocks([0.9, 0.2, 0.8], ends=ends, progress=0.3)) == [0]
    assert chosen([EosGate(0.3)], blocks([0.9, 0.2, 0.8], ends=[True] * 3)) == [0]
    assert chosen([EosGate(0.3)], blocks([0.9, 0.2, 0.8], ends=ends), Threshold(0.5)) == [1], "sure ends wait too"


def test_prophet_asks_for_less_with_age():
    rule = Prophet(7.5, 5.0, 2.5)
    for step, gap, all_in in ((0, 7.4, False), (0, 7.5, True), (2, 4.9, False), (2, 5.0, True), (5, 2.5, True)):
        made = blocks([0.1] * 6, gap=[gap - 1, gap + 1] * 3, step=step)
        assert (len(chosen([rule], made)) == 6) == all_in, (step, gap)
    filled = blocks([0.1] * 3, gap=[9.0, 0.0, 9.0], committed=[NAN, 0.5, NAN])
    assert chosen([rule], filled) == [0, 2], "the mean is over open slots, and only they are committed"


def test_stable_needs_both():
    for stable, entropy, all_in in ((1, 0.05, True), (0, 0.05, False), (1, 0.1, False)):
        made = blocks([0.1] * 3, entropy=[entropy] * 3, stable=stable)
        assert (len(chosen([Stable(1, 0.1)], made)) == 3) == all_in


def test_eotp_spends_nothing_behind_an_end():
    made = blocks([0.2, 0.1, 0.0, 0.9], committed=[NAN, NAN, 0.9, NAN], first_end=2)
    assert chosen([EoTP()], made) == [0] and chosen([], made) == [3]
    ends = blocks([0.9, 0.1, 0.2, 0.1], ends=[False, True, True, False])
    assert chosen([EoTP()], ends) == [0]
    assert chosen([EoTP(eager=True)], ends) == [0, 2], "the surest proposal of an end"


def test_an_end_waits_for_the_slots_in_front_of_it():
    ends = [False, False, True, True]
    assert chosen([EndLast()], blocks([0.6, 0.5, 0.9, 0.8], ends=ends)) == [0], "the best that has nothing to wait for"
    assert chosen([], blocks([0.6, 0.5, 0.9, 0.8], ends=ends)) == [2]
    both = blocks([0.9, 0.95, 0.9, 0.5], ends=ends)
    assert chosen([EndLast()], both, Threshold(0.9)) == [0, 1, 2], "in one pass with all in front of it"
    gap = blocks([0.9, 0.5, 0.9, 0.9], ends=ends)
    assert chosen([EndLast()], gap, Threshold(0.9)) == [0]
    filled = blocks([0.0, 0.0, 0.3, 0.9], ends=ends, committed=[0.9, 0.9, NAN, NAN])
    assert chosen([EndLast()], filled) == [2], "nothing is open in front of the first"
    sure = blocks([0.1, 0.2, 0.1, 0.1], ends=ends, stable=1, entropy=[0.0] * 4)
    assert chosen([Stable(), EndLast()], sure) == [0, 1, 2, 3], "what finishes the block leaves nothing in front"


@given(st.data())
def test_with_ends_last_every_pass_commits_and_no_end_stands_behind_an_open_slot(data):
    width = data.draw(st.integers(1, 9))
    flags = st.lists(st.booleans(), min_size=width, max_size=width)
    committed = [NAN if still else 0.9 for still in data.draw(flags)]
    sure = data.draw(st.lists(st.floats(0, 1), min_size=width, max_size=width))
    made = blocks(sure, ends=data.draw(flags), committed=committed)
    made.is_end &= made.is_open
    policy = data.draw(st.sampled_from([Static(), Static(2), Threshold(0.5), Threshold(0.9)]))
    found, free = chosen([EndLast()], made, policy), chosen([], made, policy)
    still = set(made.is_open[0].nonzero().flatten().tolist())
    assert set(found) <= still and bool(found) == bool(still)
    for slot in found:
        assert not made.is_end[0, slot] or not {i for i in still - set(found) if i < slot}
    if not made.is_end.any():
        assert found == free


@pytest.mark.parametrize("given_", [{"policy": "static"}, {"threshold": 0.35}], ids=["static", "threshold"])
def test_while_a_block_is_open_no_end_stands_behind_a_mask(given_):
    model, _ = sharp_model()
    mask = model.config.traits.mask_token_id
    ends = set(range(20, 120))
    config = greedy(slots={"end_last": {}}, max_new_tokens=24, block_size=8, eos_token_id=sorted(ends), **given_)
    strategy = build_strategy(model, config)
    requests = [Request(torch.arange(30 + k, 34 + 3 * k), seed=k) for k in range(6)]
    seen = []

    def check(states):
        for state in states:
            canvas = state.canvas or []
            if mask in canvas:
                seen.append(len(canvas))
                assert not ends & set(canvas[canvas.index(mask) :])

    together = Loop(model, requests, strategy, on_step=check).run()
    assert seen, "blocks stayed open between passes"
    assert "stop" in {state.finish_reason for state in together}
    for request, state in zip(requests, together):
        alone = Loop(model, [request], strategy).run()[0]
        assert (alone.tokens, alone.forwards) == (state.tokens, state.forwards)


def test_credit_is_what_was_best_before():
    credit, rule = {}, Credit(alpha=0.7, gamma=0.5, decay=0.8)
    first = torch.tensor([1.0, 0.0, -torch.inf], dtype=torch.float64)
    p = first.softmax(-1)[0].item()
    expected = first[0].item() + 0.7 * torch.log1p(torch.tensor(p**0.5)).item()
    rule.fuse(first, credit)
    assert first[0].item() == pytest.approx(expected, abs=1e-6) and credit == {0: pytest.approx(p**0.5)}
    second = torch.tensor([0.0, 2.0, -torch.inf], dtype=torch.float64)
    q = second.softmax(-1)[1].item()
    rule.fuse(second, credit)
    assert credit == {0: pytest.approx(0.8 * p**0.5), 1: pytest.approx(q**0.5)}
    assert second[2].item() == -torch.inf


def test_repetition_ends_what_goes_in_circles():
    rule = Repetition(times=3, longest=4, tokens=6)
    assert rule.ends([9, 1, 2, 1, 2, 1, 2]) and not rule.ends([9, 1, 2, 1, 2, 2, 1])
    assert not rule.ends([7, 7, 7, 7, 7]) and rule.ends([7] * 6), "six tokens at least"
    assert rule.ends([1, 2, 3, 4] * 3) and not rule.ends([1, 2, 3, 4, 5] * 3)
    finish = Finish(frozenset([0]), repetition=rule)
    assert finish.cut([7, 7, 7], [7, 7, 7, 7, 0]) == Cut(3, "repetition")
    assert finish.cut([], [7, 0, 7]) == Cut(2, "stop") and finish.cut([7] * 3, [7, 7]) is None


def test_an_answer_in_circles_is_stopped_in_every_mode():
    model, _ = tiny_model()
    with torch.no_grad():  # says the same token whatever it sees
        model.get_output_embeddings().weight.fill_(0.5)
    for mode in ("block", "ar", "speculative"):
        config = greedy(mode=mode, slots={"repetition": {"times": 4, "tokens": 10}}, max_new_tokens=64)
        state = answer(model, [Request(torch.tensor([30, 31]))], config)[0]
        assert len(set(state.generated)) == 1 and len(state.generated) == 10
        assert state.finish_reason == "repetition"


def test_the_filter_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    shapes = {"up.weight": (5, 4), "up.bias": (5,), "down.weight": (4, 5), "down.bias": (4,)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    seen = torch.rand(3, 4, generator=generator)
    for row, found in zip(seen, accepted(weights, seen)):
        hidden = [max(0.0, float(w @ row + b)) for w, b in zip(weights["up.weight"], weights["up.bias"])]
        raw = [float(w @ torch.tensor(hidden) + b) for w, b in zip(weights["down.weight"], weights["down.bias"])]
        assert found.tolist() == pytest.approx([1 / (1 + 2.718281828459045**-x) for x in raw], abs=1e-5)
    assert accepted(weights, seen[:, :2]).shape == (3, 2)
    filled = torch.cat([seen[:, :2], torch.ones(3, 2)], 1)
    torch.testing.assert_close(accepted(weights, seen[:, :2]), accepted(weights, filled)[:, :2])


def test_the_filter_sees_what_was_committed_where_a_slot_is_filled():
    p, past = torch.tensor([[0.5, NAN, 0.3, NAN]]), torch.tensor([[NAN, 0.8, NAN, NAN]])
    assert features(p, past.isnan() & ~p.isnan(), past)[0].tolist() == pytest.approx([0.5, 0.8, 0.3, 1.0])


@pytest.mark.parametrize("traits", [{"off_grid_ok": True}, {}, {"context_attention": "block_causal"}])
def test_adablock_closes_trained_sizes_on_the_grid_and_ends_them_on_delimiters(traits):
    """Blocks shrink to a trained size, begin at a multiple of it where they must, and leave the clean stream's KV."""
    model, processor = sharp_model(**traits)
    slots = {"adablock": {"delimiters": "a", "tau": 0.0, "share": 1.0}}
    config = greedy(slots=slots, block_size=8, max_new_tokens=40, threshold=0.3)
    strategy = build_strategy(model, config, None, processor.tokenizer)
    strategy = replace(strategy, spans=replace(strategy.spans, delimiters=frozenset(range(0, 300, 2))))
    request, other = (Request(torch.randint(20, 250, (n,), generator=torch.manual_seed(n))) for n in (7, 12))
    cache = BlockCache(model.config.text_config, 1)
    state = Loop(model, [request], strategy, cache).run()[0]
    assert Loop(model, [other, request], strategy).run()[1].tokens == state.tokens
    borders = [(start - 7, end - 7) for start, end in state.blocks]
    assert [a for a, _ in borders] == [0, *(b for _, b in borders[:-1])] and borders[-1][1] >= 40
    sizes = [b - a for a, b in borders]
    assert set(sizes) <= {1, 4, 8} and len(set(sizes)) > 1
    if not traits.get("off_grid_ok"):
        assert all(a % (b - a) == 0 for a, b in borders)
    borders = [(0, 7)] * 7 + [pair for pair in state.blocks for _ in range(*pair)]
    ids, borders = torch.tensor([state.tokens]), torch.tensor(borders[: len(state.tokens)]).T
    zeros = torch.zeros_like(ids)
    fresh = BlockCache(model.config.text_config, 1)
    with torch.no_grad():
        rows = Rows(torch.arange(ids.shape[1])[None], zeros, zeros, borders[:1], borders[1:])
        model.decode(model.get_input_embeddings()(ids), rows, fresh)
    for kept, expected in zip(cache.layers, fresh.layers):
        assert torch.allclose(kept.keys[:, :, : ids.shape[1]], expected.keys[:, :, : ids.shape[1]], atol=1e-9)


def test_dcd_grows_where_the_window_meets_doubt():
    model, _ = tiny_model(scale=4.0, off_grid_ok=True)
    widths = []
    config = greedy(slots={"dcd": {"window": 8, "growth": 4, "by": 4, "doubt": 1.0}}, max_new_tokens=24)
    state = answer(
        model, [Request(torch.arange(30, 36))], config, on_step=lambda s: widths.append(len(s[0].canvas or []))
    )
    assert widths[0] == 8, "a block of four, unsure of everything, first takes on four more"
    assert state[0].blocks[0] == (6, 14) and len(state[0].generated) == 24
