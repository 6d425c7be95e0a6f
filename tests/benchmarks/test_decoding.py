"""The comparison of the two modes: its statistics against made-up costs, its runs on a tiny random model."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import decoding
from benchmarks.decoding import Pair, compare, main, paired_difference, row_cost, spread, summary
from tests.vlm.tiny import tiny_model
from vlm.answering import Answer
from vlm.answering import settings as generation

few = st.integers(0, 4)
COUNTS = st.tuples(few, few, few).map(lambda t: (t[0], t[0] + t[1], t[0] + t[2]))  # matched, predicted, expected


def answer(mode, tokens, forwards, decode_s, text="", prefill_s=0.5):
    return Answer(text, tokens, forwards, tokens / forwards, prefill_s, decode_s, "stop", mode)


def pair(block_s, ar_s, block=(4, 4, 4), ar=(4, 4, 4), text="yes"):
    answers = {"block": answer("block", 8, 2, block_s, "yes"), "ar": answer("ar", 8, 8, ar_s, text)}
    return Pair(answers, {"block": block, "ar": ar})


def test_spread_is_median_and_quartiles():
    assert spread([5, 1, 2, 4, 3]) == {"median": 3.0, "q25": 2.0, "q75": 4.0}
    assert spread([]) is None


@settings(deadline=None, max_examples=20)
@given(st.lists(COUNTS, min_size=1, max_size=8), st.lists(COUNTS, min_size=8, max_size=8))
def test_paired_difference_of_equals_is_nothing_and_its_sign_turns_with_the_sides(a, b):
    assert paired_difference(a, a, 200) == {"difference": 0.0, "low": 0.0, "high": 0.0}
    one, other = paired_difference(a, b[: len(a)], 200), paired_difference(b[: len(a)], a, 200)
    assert one["difference"] == -other["difference"]
    assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]), abs=1e-9)


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


def test_summary_of_made_up_costs():
    found = summary([pair(1.0, 2.0), pair(1.0, 4.0), pair(2.0, 12.0, (2, 4, 4), (3, 4, 4), "no"), pair(0.0, 1.0)])
    assert (found["items"], found["items_timed"]) == (4, 3)  # the last one's block answer came with its first pass
    assert found["decode_ratio"] == {"median": 4.0, "q25": 3.0, "q75": 5.0}
    assert found["decode_ratio_of_totals"] == 4.5
    assert (found["block"]["tokens_per_forward"], found["ar"]["tokens_per_forward"]) == (4.0, 1.0)
    assert (found["block"]["forwards"], found["ar"]["forwards"]) == (8, 32)
    assert (found["block"]["accuracy"], found["ar"]["accuracy"]) == pytest.approx((14 / 16, 15 / 16), abs=1e-4)
    assert found["accuracy_block_less_ar"]["difference"] == -1 / 16
    assert found["same_answer"] == 0.75


def test_both_modes_answer_every_item_and_take_turns_to_go_first(monkeypatch):
    model, processor = tiny_model()
    configs = {mode: generation(model, mode=mode, max_new_tokens=6) for mode in decoding.MODES}
    asked, original = [], decoding.answer_batch

    def recording(model, processor, requests, config):
        asked.append(config.mode)
        return original(model, processor, requests, config)

    monkeypatch.setattr(decoding, "answer_batch", recording)
    pairs = compare(model, processor, configs, "counting", 1, 3)
    assert asked[2:] == ["block", "ar", "ar", "block", "block", "ar"]
    assert [set(p.answers) for p in pairs] == [{"block", "ar"}] * 3
    for found in pairs:
        assert all(found.answers[mode].mode == mode for mode in decoding.MODES)
        assert found.answers["ar"].tokens == found.answers["ar"].forwards
        assert all(counts[1:] == (1, 1) for counts in found.counts.values())


def test_row_cost_compares_passes_of_the_sizes_it_says(monkeypatch):
    model, processor = tiny_model()
    took = {1: 2.0, 8: 3.0}
    monkeypatch.setattr(decoding, "_timed", lambda model, cache, prompt, n: took[n])
    assert row_cost(model, processor, 8, "json", 1) == {
        "block_size": 8, "one_row_s": 2.0, "block_s": 3.0, "row_cost": 1.5, "ceiling": round(8 / 1.5, 3),
    }  # fmt: skip


def test_a_timed_pass_leaves_the_cache_as_it_was():
    model, processor = tiny_model()
    seen = []

    def timed(model, cache, prompt, n, original=decoding._timed):
        assert original(model, cache, prompt, n) > 0
        seen.append((prompt, cache.lengths.tolist()))
        return 1.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_timed", timed)
        row_cost(model, processor, 4, "json", 1, repeats=3)
    assert len(set(map(str, seen))) == 1 and seen[0][1] == [seen[0][0]]


def test_the_command_writes_and_prints_its_report(tmp_path, capsys, monkeypatch):
    loaded = tiny_model(dtype=torch.float32)
    loaded[0].generation_config.max_new_tokens = 12
    monkeypatch.setattr(decoding, "load", lambda name: loaded)
    output = tmp_path / "new" / "out.json"
    options = ["--families", "json,counting", "--limit", "2", "--block-size", "8", "--threshold", "0.5"]
    assert main([*options, "--output", str(output)]) == 0
    report = json.loads(output.read_text())
    assert report["settings"] == {"threshold": 0.5, "block_size": 8, "seed": 1}
    assert list(report["families"]) == ["json", "counting"] and report["forward"]["block_size"] == 8
    shown = capsys.readouterr().out
    assert "ceiling" in shown and "counting, 2 items" in shown and "block less ar" in shown


@pytest.mark.parametrize(
    "options, says",
    [
        (["--families", "jsn"], "unknown family 'jsn'; did you mean json?"),
        (["--limit", "0"], "--limit 0 must be at least 1"),
        (["--model", "/no/such/model"], "/no/such/model: no such model directory"),
        (["--output", "/proc/none/x.json"], "/proc/none"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, options, says):
    assert main(["--output", str(tmp_path / "out.json"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1
