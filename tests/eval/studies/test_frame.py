"""The frame with made-up results: intervals against tables and simulation, verdicts, resumption, refusals."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.studies.frame import (
    Arm,
    Claim,
    Interval,
    Result,
    as_json,
    change,
    difference,
    opened,
    over_seeds,
    run_arms,
    student,
)
from vlm.noise import Uniform

ARMS = [Arm(name, {"level": name}, seed) for seed in range(2) for name in ("plain", "+ABNS")]


def made(arm: str, *found: float) -> list[Result]:
    return [Result(arm, seed, {"score": value}) for seed, value in enumerate(found)]


def claim(expected: str, low: float, high: float) -> Claim:
    return Claim(
        "a beats b", "48.6 against 31.4", "a paper", expected, Interval((low + high) / 2, low, high), "points"
    )


@pytest.mark.parametrize("freedom, published", [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042)])
def test_the_quantile_is_that_of_printed_tables(freedom, published):
    assert student(freedom) == pytest.approx(published, abs=6e-4)


def test_an_interval_of_three_seeds_holds_the_truth_in_95_of_100_studies():
    rng = np.random.default_rng(0)
    held = [(i := over_seeds(rng.normal(7, 2, 3))).low <= 7 <= i.high for _ in range(1500)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def test_one_seed_gives_no_interval_and_no_verdict():
    alone = difference(made("a", 9.0) + made("b", 1.0), "score", "a", "b")
    assert (alone.value, alone.low, alone.high) == (8.0, -math.inf, math.inf)
    assert Claim("", "", "", "higher", alone, "").verdict == "not distinguishable"
    assert alone.text(1, "+") == "+8.0 (no interval)"


def test_differences_are_paired_by_seed_whatever_the_order_of_results():
    results = made("a", 11, 21, 31) + made("b", 10, 20, 30)
    paired = difference(results[::-1], "score", "a", "b")
    assert (paired.value, paired.low, paired.high) == (1.0, 1.0, 1.0)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(*[st.floats(0.1, 10)] * 2), min_size=2, max_size=5))
def test_a_change_and_its_reverse_cancel(pairs):
    results = made("a", *(a for a, _ in pairs)) + made("b", *(b for _, b in pairs))
    there, back = (change(results, "score", *names) for names in (("a", "b"), ("b", "a")))
    for end, other in ((there.value, back.value), (there.low, back.high)):
        if -99.9 < end < 1e5:  # nearer to -100 % its digits are gone
            assert (1 + end / 100) * (1 + other / 100) == pytest.approx(1)


def test_a_change_is_in_percent():
    assert change(made("a", 3, 6) + made("b", 4, 8), "score", "a", "b").value == pytest.approx(-25)


@pytest.mark.parametrize(
    "expected, low, high, verdict",
    [
        ("higher", 0.1, 2, "confirmed"),
        ("higher", -2, -0.1, "contradicted"),
        ("higher", -0.1, 2, "not distinguishable"),
        ("lower", -2, -0.1, "confirmed"),
        ("lower", 0.1, 2, "contradicted"),
        ("lower", -2, 0, "not distinguishable"),
        ("higher", math.nan, math.nan, "not distinguishable"),
    ],
)
def test_a_verdict_follows_from_the_interval(expected, low, high, verdict):
    assert claim(expected, low, high).verdict == verdict


def test_finished_arms_are_not_measured_again(tmp_path):
    asked = []

    def measure(arm, folder):
        assert folder.is_dir()
        asked.append((arm.name, arm.seed))
        return {"score": arm.seed + 0.5}, {"loss": [(1, 2.0)]}

    first = run_arms(ARMS, tmp_path, measure)
    assert asked == [(arm.name, arm.seed) for arm in ARMS]
    (tmp_path / "+ABNS" / "seed-1" / "result.json").unlink()
    assert run_arms(ARMS, tmp_path, measure) == first
    assert asked[len(ARMS) :] == [("+ABNS", 1)]


def test_a_study_stopped_within_an_arm_goes_on_with_it(tmp_path):
    def stopped(arm, folder):
        if arm == ARMS[2]:
            raise KeyboardInterrupt
        return {"score": 1.0}, {}

    with pytest.raises(KeyboardInterrupt):
        run_arms(ARMS, tmp_path, stopped)
    asked = []
    run_arms(ARMS, tmp_path, lambda arm, folder: (asked.append(arm), ({"score": 2.0}, {}))[1])
    assert asked == ARMS[2:]


def test_a_damaged_result_is_named(tmp_path):
    run_arms(ARMS[:1], tmp_path, lambda arm, folder: ({"score": 1.0}, {}))
    file = tmp_path / "plain" / "seed-0" / "result.json"
    file.write_text("{")
    with pytest.raises(ValueError, match=f"{file}: not the result of an arm"):
        run_arms(ARMS[:1], tmp_path, lambda arm, folder: ({}, {}))


def test_an_output_belongs_to_one_study_and_one_process(tmp_path):
    asked = {"study": "noise", "limit": 100, "arms": {"clipped": Uniform(0.45, 0.95), "sizes": (1, 2)}}
    with opened(tmp_path, asked):
        with pytest.raises(ValueError, match="another study is writing there"), opened(tmp_path, asked):
            pass
    with opened(tmp_path, asked):  # the same again
        pass
    with pytest.raises(ValueError, match="its limit is 100, not 50"), opened(tmp_path, {**asked, "limit": 50}):
        pass
    assert json.loads((tmp_path / "study.json").read_text()) == as_json(asked)


def test_what_has_no_end_is_null_in_json():
    assert as_json(Interval(1.0, -math.inf, math.inf)) == {"value": 1.0, "low": None, "high": None}
