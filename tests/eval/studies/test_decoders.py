"""The study of decoders: AUP and the front against restatements, statistics of made-up answers, a tiny study."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from eval.record import ItemRecord
from eval.studies import decoders
from eval.studies.__main__ import main
from eval.studies.curves import aup, front
from eval.studies.decoders_report import NOTHING, pays, points_of
from eval.studies.decoding import AR, answer_all, as_change, passes, pooled, same, score_difference, speed
from eval.studies.frame import Arm, Interval
from eval.studies.headlines import HEADLINES, LARGE, PLAIN, STATIC, Headline, agreement, claim_of
from eval.suites import playground
from tests.vlm.tiny import tiny_model
from vlm.generation.presets import PRESETS

FEW = ("sdar-static", "fast-dllm", "tccf", "wedlm-stream")  # of a tiny study: two that run, two that are refused


def record(index, score=1.0, tokens=8, forwards=4, decode_s=1.0, answer="yes", family="a"):
    cost = (tokens, forwards, 0.1, decode_s, 0.1, "stop")
    return ItemRecord(family, index, "?", answer, "yes", "accuracy", score, None, *cost)


def column(scores, forwards=4, decode_s=1.0, answer="yes"):
    return [record(i, s, forwards=forwards, decode_s=decode_s, answer=answer) for i, s in enumerate(scores)]


def test_aup_of_an_example_worked_by_hand():
    """80 stays 80 from 1 to 2 tokens: 80 + 80. Then 78, weighted exp(-3 * 2/80) = 0.92774, over 2: 80 + 72.364."""
    points = [(1, 80.0), (2, 80.0), (4, 78.0), (6, 74.9)]  # the last is more than 5 below the first
    assert aup(points, 80.0) == pytest.approx(80 + 80 + 80 + 72.364, abs=1e-3)
    assert aup(points, 90.0) < aup(points, 80.0)
    assert aup([(1.0, 74.1)], 90.0) == 74.1  # a method without a knob is not weighted


POINTS = st.lists(st.tuples(st.floats(0.5, 32), st.floats(0, 100)), min_size=1, max_size=6)


@bounded(deadline=None, max_examples=50)
@given(POINTS, st.randoms(), st.floats(0, 10))
def test_aup_has_its_properties_whatever_the_points(points, random, more):
    best = max(y for _, y in points)
    area = aup(points, best)
    mixed = random.sample(points, len(points))
    assert aup(mixed, best) == pytest.approx(area)
    assert 0 <= area <= max(rho for rho, _ in points) * best + 1e-6  # the whole rectangle
    assert aup(points, best + more) <= area + 1e-9  # a better competitor lowers what is no longer the best
    flat = [(rho, 60.0) for rho, _ in points]
    assert aup(flat, 60.0) == pytest.approx(max(rho for rho, _ in points) * 60)  # nothing lost: the plain area
    slowest = min(points, key=lambda p: (p[0], -p[1]))
    assert aup([*points, (40.0, max(0.0, slowest[1] - 5.01))], best) == pytest.approx(area) or slowest[1] < 5.01


@bounded(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=9))
def test_the_front_is_what_a_sweep_finds(points):
    """From the fastest down, a point is on the front if it is higher than all faster ones, or a double of such."""
    kept, highest = set(), -1
    for x, y in sorted(points, key=lambda p: (-p[0], -p[1])):
        if y > highest:
            kept.add((x, y))
            highest = y
    assert front(points) == [point in kept for point in points]


def test_statistics_of_made_up_answers():
    slow, fast = column([1.0] * 10, 8, 4.0), column([1.0] * 9 + [0.0], 2, 1.0, "no")
    assert (speed(fast, slow).value, speed(fast, slow).low) == (4.0, 4.0)
    assert passes(fast, slow).value == 4.0 and as_change(passes(fast, slow)).value == 300.0
    gap = score_difference(fast, slow)
    assert gap.value == pytest.approx(-10) and gap.low < -10 < gap.high <= 0
    assert same(fast, slow) == 0 and same(slow, slow) == 100
    assert score_difference(slow, fast).low == pytest.approx(-gap.high)
    both = pooled([slow, fast])
    assert [r.score for r in both] == [1.0] * 9 + [0.5] and {(r.forwards, r.decode_s) for r in both} == {(10, 5.0)}


def test_few_items_have_no_interval_and_no_verdict():
    slow, fast = column([1.0] * 7, 8, 4.0), column([0.0] * 7, 2, 1.0)
    for found in (speed(fast, slow), passes(fast, slow), score_difference(fast, slow)):
        assert (found.low, found.high) == (-math.inf, math.inf)
    assert claim_of("fast-dllm", HEADLINES[PLAIN], "s", {PLAIN: fast, STATIC: slow}).verdict == "not distinguishable"


def test_items_answered_in_the_first_pass_stand_outside_the_ratio():
    slow, fast = column([1.0] * 10, 8, 4.0), column([1.0] * 9, 2, 1.0) + [record(9, decode_s=0.0)]
    assert speed(fast, slow).value == 4.0
    assert math.isnan(speed(column([1.0] * 9, 1, 0.0), slow).value)


@pytest.mark.parametrize(
    "faster, gap, said",
    [
        ((2, 1.5, 3), (0, -1, 1), "yes"),
        ((2, 1.5, 3), (2, 1, 3), "yes, and scores higher"),
        ((2, 1.5, 3), (-4, -5, -3), "no: faster, but 4.0 points worse"),
        ((0.5, 0.4, 0.6), (0, -1, 1), "no: slower"),
        ((0.5, 0.4, 0.6), (2, 1, 3), "slower, but scores higher"),
        ((1, 0.9, 1.1), (-4, -5, -3), "no: not faster, and 4.0 points worse"),
        ((1, 0.9, 1.1), (0, -1, 1), "not distinguishable"),
    ],
)
def test_whether_a_decoder_pays_follows_from_both_intervals(faster, gap, said):
    assert pays(Interval(*faster), Interval(*gap)) == said


def test_a_headline_is_judged_by_what_was_measured():
    answers = {STATIC: column([1.0] * 10, 9, 4.0), "localleap": column([1.0] * 10, 3, 1.0)}
    told = agreement("localleap", HEADLINES["localleap"], answers, 4)
    assert told == (
        "here 4.00 [4.00, 4.00] times as fast (more than sdar-static); below the published 6.94; "
        "a pass commits at most 4 tokens"
    )
    assert claim_of("localleap", HEADLINES["localleap"], "s", answers).verdict == "confirmed"
    turned = {STATIC: answers["localleap"], "localleap": answers[STATIC]}
    assert claim_of("localleap", HEADLINES["localleap"], "s", turned).verdict == "contradicted"
    assert agreement("localleap", HEADLINES["localleap"], {"localleap": []}, 4).startswith("not compared")
    more = Headline("5 points more", "score", STATIC, 5.0)
    worse = {STATIC: answers[STATIC], "x": column([0.0] * 10)}
    assert "less than sdar-static); below the published 5; 100 % of the answers are the same" in agreement(
        "x", more, worse, 8
    )


def test_every_preset_has_a_headline_against_an_arm_that_there_is():
    assert HEADLINES.keys() == PRESETS.keys()
    assert {h.against for h in HEADLINES.values()} <= {*PRESETS, LARGE, AR}


def test_points_stand_on_one_front_and_areas_are_those_of_the_curves():
    answers = {
        AR: column([1.0] * 10, 8, 8.0),
        STATIC: column([1.0] * 10, 8, 8.0),
        "x": column([1.0] * 10, 4, 4.0),
        "x fast": column([1.0] * 10, 2, 2.0),
        "y": column([0.0] * 10, 2, 2.0),
    }
    ar, static, x, y = points_of(answers, {AR: [AR], STATIC: [STATIC], "x": ["x", "x fast"], "y": ["y"]})
    assert [p.best for p in (ar, static, x, y)] == [False, False, True, True]
    assert (ar.aup.value, x.aup.value, y.aup.value) == (100, 400, 0)  # 1 x 100; 4 x 100, all of it kept
    assert (x.against_ar.value, x.against_static.value, x.same) == (2.0, 2.0, 100)
    assert static.pays == "the measure of the others" and x.pays == "yes" and y.pays.endswith("100.0 points worse")


@pytest.fixture
def tiny(monkeypatch):
    """A random model, few presets."""
    model, processor = tiny_model(dtype=torch.float32)
    model.generation_config.max_new_tokens = 4
    monkeypatch.setattr(decoders, "load", lambda name: (model, processor))
    monkeypatch.setattr(decoders, "PARALLEL_TOKENS", 4)
    monkeypatch.setattr(decoders, "PRESETS", {name: PRESETS[name] for name in (*FEW, "dcd", "cad")})
    return model, processor


def command(output, *more):
    return main(["decoders", "--limit", "2", "--families", "json", "--output", str(output), *more])


def answers_in(output):
    lines = {}
    for file in sorted(output.glob("playground/*/items.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        lines[file.parent.name] = [(r["index"], r["answer"], r["tokens"], r["forwards"]) for r in rows]
    return lines


def test_a_study_runs_from_one_command_and_goes_on_where_it_stopped(tiny, tmp_path, monkeypatch, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert command(whole) == 0
    text = capsys.readouterr().out
    assert NOTHING in text and "| tccf |" in text.split("Not run on this checkpoint")[1]
    found = json.loads((whole / "results.json").read_text())
    assert set(found["refused"]) == {"tccf", "wedlm-stream"}
    asked = [p["decoder"] for p in found["suites"]["playground"]["points"]]
    assert asked == [AR, "sdar-static", "fast-dllm", "dcd", "cad", LARGE, "cad share=0"]
    assert {row[0] for rows in answers_in(whole).values() for row in rows} == {1, 2}

    asked_of, real = [], decoders.answer_all.__globals__["answered"]

    def counting(model, processor, config, suite, batch, store):
        if len(asked_of) == 30:
            raise KeyboardInterrupt
        asked_of.append(batch[0].index)
        return real(model, processor, config, suite, batch, store)

    monkeypatch.setitem(decoders.answer_all.__globals__, "answered", counting)
    assert command(cut) == 130
    before = answers_in(cut)
    assert 0 < sum(map(len, before.values())) < sum(map(len, answers_in(whole).values()))
    monkeypatch.setitem(decoders.answer_all.__globals__, "answered", real)
    assert command(cut) == 0 and answers_in(cut) == answers_in(whole)

    monkeypatch.setitem(decoders.answer_all.__globals__, "answered", lambda *_: pytest.fail("asked again"))
    assert command(whole) == 0 and capsys.readouterr().out.endswith(text)


def test_where_something_is_right_fronts_papers_and_verdicts_are_told(tiny, tmp_path, monkeypatch):
    """Every answer is called right: scores are 100 and the report has all its parts, ParallelBench too."""
    for module in (decoders.playground, decoders.parallel_bench):
        real = module.suite

        def right(seed, real=real):
            made = real(seed)
            return type(made)(**{**vars(made), "score": lambda asked, answer: (1.0, None)})

        monkeypatch.setattr(module, "suite", right)
    monkeypatch.setattr(decoders.parallel_bench, "TASKS", ("copy",))
    assert command(tmp_path, "--parallel", "1") == 0
    text = (tmp_path / "report.md").read_text()
    for part in ("beside the papers", "verdicts on directions", "front-parallel_bench.png", "Faster than sdar-static"):
        assert part in text
    assert (tmp_path / "front-playground.png").stat().st_size > 5000
    found = json.loads((tmp_path / "results.json").read_text())["suites"]
    assert {p["score"]["value"] for part in found.values() for p in part["points"]} == {100}
    assert {c["verdict"] for c in found["playground"]["claims"]} == {"not distinguishable"}  # of two items


def test_arms_are_asked_in_changing_order(tiny, tmp_path):
    model, processor = tiny
    arms = [Arm(f"t{i}", {"threshold": 0.1 * (i + 1)}, 1) for i in range(4)]
    real, seen = playground.suite(1), []
    suite = type(real)(**{**vars(real), "score": lambda asked, answer: (seen.append(asked.index) or 1.0, None)})
    answers = answer_all(model, processor, suite, ["counting"], 3, arms, tmp_path, "tiny")
    assert seen == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4  # all arms of an item before the next
    orders = {tuple(np.random.default_rng(i).permutation(4)) for i in (1, 2, 3)}
    assert len(orders) > 1 and [len(items) for items in answers.values()] == [3] * 4


@pytest.mark.parametrize(
    "options, said",
    [
        (["--families", "jsn"], "unknown family 'jsn'"),
        (["--limit", "0"], "--limit 0 must be at least 1"),
        (["--parallel", "0"], "--parallel 0 must be at least 1"),
    ],
)
def test_what_asks_for_nothing_is_refused(tiny, tmp_path, capsys, options, said):
    assert main(["decoders", "--output", str(tmp_path / "out"), *options]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()
