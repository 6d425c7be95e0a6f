"""Comparisons of pairs: their statistics against made-up costs, their runs on a tiny random model."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import paired
from benchmarks.paired import Arm, Item, answer_items, cost, paired_difference, versus
from tests.vlm.tiny import tiny_model
from vlm.answering import Answer
from vlm.answering import settings as generation

few = st.integers(0, 4)
COUNTS = st.tuples(few, few, few).map(lambda t: (t[0], t[0] + t[1], t[0] + t[2]))  # matched, predicted, expected


def answer(mode, tokens, forwards, decode_s, text="yes", prefill_s=0.5):
    return Answer(text, tokens, forwards, tokens / forwards, prefill_s, decode_s, "stop", mode)


def made(index, block_s, ar_s, block=(4, 4, 4), ar=(4, 4, 4), text="yes"):
    answers = {"block": answer("block", 8, 2, block_s), "ar": answer("ar", 8, 8, ar_s, text)}
    return Item(index, answers, {"block": block, "ar": ar})


MADE = [made(0, 1.0, 2.0), made(1, 1.0, 4.0), made(2, 2.0, 12.0, (2, 4, 4), (3, 4, 4), "no"), made(3, 0.0, 1.0)]


@settings(deadline=None, max_examples=20)
@given(st.lists(COUNTS, min_size=1, max_size=8), st.lists(COUNTS, min_size=8, max_size=8))
def test_paired_difference_of_equals_is_nothing_and_its_sign_turns_with_the_sides(a, b):
    assert paired_difference(a, a, 200) == {"difference": 0.0, "low": 0.0, "high": 0.0}
    one, other = paired_difference(a, b[: len(a)], 200), paired_difference(b[: len(a)], a, 200)
    assert one["difference"] == -other["difference"]
    # Ends are rounded to four places, and halves may go either way.
    assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]), abs=1.1e-4)


def test_paired_difference_of_single_slots_is_the_mean_of_differences_with_its_normal_interval():
    rng = np.random.default_rng(0)
    hard = rng.random(500) < 0.5
    a, b = hard, hard & (rng.random(500) < 0.9)  # b fails where a does, and now and then besides
    counts = [[(int(x), 1, 1) for x in side] for side in (a, b)]
    found, differences = paired_difference(*counts), a.astype(int) - b.astype(int)
    error = 1.96 * differences.std() / 500**0.5
    assert found["difference"] == pytest.approx(differences.mean(), abs=1e-4)
    assert found["high"] - found["low"] == pytest.approx(2 * error, rel=0.1)
    assert error < 0.5 * 1.96 * (a.var() / 500 + b.var() / 500) ** 0.5  # unpaired, it would be twice as wide


def test_costs_of_made_up_answers():
    block, ar = cost(MADE, "block"), cost(MADE, "ar")
    assert (block["tokens_per_forward"], ar["tokens_per_forward"]) == (4.0, 1.0)
    assert (block["forwards"], ar["forwards"]) == (8, 32)
    assert (block["accuracy"], ar["accuracy"]) == pytest.approx((14 / 16, 15 / 16), abs=1e-4)
    assert block["pass_s"]["median"] == 1.0 and ar["pass_s"]["median"] == pytest.approx(3 / 7, abs=1e-4)
    assert block["prefill_s"] == {"median": 0.5, "q25": 0.5, "q75": 0.5}


def test_versus_made_up_answers():
    found = versus(MADE, "block", "ar")
    assert found["items_timed"] == 3  # the last one's block answer came with its first pass
    assert found["decode_ratio"] == {"median": 4.0, "q25": 3.0, "q75": 5.0}
    assert found["decode_ratio_of_totals"] == 4.5
    assert found["token_ratio"] == found["decode_ratio"]  # as many tokens on either side
    assert found["decode_ratio_where_same"] == {"median": 3.0, "q25": 2.5, "q75": 3.5}
    assert found["accuracy_difference"]["difference"] == -1 / 16
    assert (found["same_answer"], found["differing_items"]) == (0.75, [2])
    turned = versus(MADE, "ar", "block")
    assert turned["decode_ratio"]["median"] == 0.25 and turned["accuracy_difference"]["difference"] == 1 / 16
    nothing = versus(MADE[3:], "block", "ar")
    assert nothing["decode_ratio"] is None and nothing["decode_ratio_of_totals"] is None


def test_a_way_that_says_less_is_not_faster_per_token():
    answers = {"block": answer("block", 2, 2, 1.0, "a"), "ar": answer("ar", 8, 8, 4.0, "a b c")}
    found = versus([Item(0, answers, {"block": (1, 1, 1), "ar": (1, 1, 1)})], "block", "ar")
    assert found["decode_ratio"]["median"] == 4.0 and found["token_ratio"]["median"] == 1.0
    assert found["decode_ratio_where_same"] is None


def test_every_arm_answers_every_item_and_the_order_turns(monkeypatch):
    model, processor = tiny_model()
    modes = ("block", "speculative", "ar")
    arms = {mode: Arm(model, generation(model, mode=mode, max_new_tokens=6)) for mode in modes}
    asked, original = [], paired.answer_batch

    def recording(model, processor, requests, config):
        asked.append(config.mode)
        return original(model, processor, requests, config)

    monkeypatch.setattr(paired, "answer_batch", recording)
    done = []
    items = answer_items(processor, arms, "counting", 1, 4, lambda: done.append(len(asked)))
    assert asked == [*modes, *modes, "speculative", "ar", "block", "ar", "block", "speculative", *modes[::-1]]
    assert done == [3, 6, 9, 12, 15] and [item.index for item in items] == [0, 1, 2, 3]
    for found in items:
        assert {name: a.mode for name, a in found.answers.items()} == {mode: mode for mode in modes}
        assert found.answers["ar"].tokens == found.answers["ar"].forwards
        assert found.answers["speculative"].answer == found.answers["ar"].answer
        assert all(counts[1:] == (1, 1) for counts in found.counts.values())
