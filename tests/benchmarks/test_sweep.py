"""The sweep: which settings it takes, what it makes of made-up answers, its files from a tiny random model."""

import json

import pytest
import torch
from PIL import Image

from benchmarks import sweep
from benchmarks.paired import Item
from benchmarks.sweep import AR, GRID, Setting, arms_of, main, points, policies_named, table
from tests.vlm.tiny import tiny_model
from vlm.answering import Answer
from vlm.generation.commit import POLICIES


def test_all_policies_stand_in_the_grid_with_values_they_take():
    model, _ = tiny_model()
    arms = arms_of(model, policies_named(None), [4, 8])
    assert len(arms) == 1 + 2 * sum(len(values) for _, values in GRID.values())
    assert {name.policy for name in arms if name != AR} == set(GRID) <= set(POLICIES)
    for setting, arm in arms.items():
        if setting == AR:
            assert arm.config.mode == "ar"
            continue
        policy = arm.config.commit_policy()
        assert type(policy) is POLICIES[setting.policy]
        assert getattr(policy, setting.parameter) == setting.value
        assert (arm.config.mode, arm.config.block_size) == ("block", setting.block_size)


def test_policies_are_named_with_or_without_values():
    assert policies_named("factor,threshold=0.5/0.75,static=2") == {
        "factor": GRID["factor"][1], "threshold": (0.5, 0.75), "static": (2,),
    }  # fmt: skip
    assert isinstance(policies_named("static=2")["static"][0], int)


def answer(tokens, forwards, decode_s, text="yes"):
    return Answer(text, tokens, forwards, tokens / forwards, 0.1, decode_s, "stop", "block")


GOOD, FAST, POOR = Setting("threshold", 0.9, 8), Setting("threshold", 0.5, 8), Setting("factor", 4, 8)


def made(index):
    answers = {AR: answer(8, 8, 4.0), GOOD: answer(8, 4, 2.0), FAST: answer(8, 2, 1.0, "no"), POOR: answer(8, 4, 2.0)}
    counts = {AR: (4, 4, 4), GOOD: (4, 4, 4), FAST: (3, 4, 4), POOR: (2, 4, 4)}
    return Item(index, answers, counts)


def test_points_stand_beside_ar_and_only_those_that_none_beats_are_best():
    good, fast, poor = points([made(0), made(1)], [GOOD, FAST, POOR])
    assert [p["best"] for p in (good, fast, poor)] == [True, True, False]
    assert (good["tokens_per_forward"], fast["tokens_per_forward"]) == (2.0, 4.0)
    assert (good["decode_ratio"]["median"], fast["decode_ratio"]["median"]) == (2.0, 4.0)
    assert (fast["accuracy"], fast["accuracy_difference"]["difference"]) == (0.75, -0.25)
    assert (fast["parameter"], fast["value"], fast["same_answer"]) == ("tau", 0.5, 0.0)
    again = points([made(0)], [GOOD, Setting("bacd", 0.9, 8)][:1] * 2)
    assert all(p["best"] for p in again)  # equals do not beat each other


def test_the_command_writes_a_report_a_table_and_a_plot(tmp_path, capsys, monkeypatch):
    loaded = tiny_model(dtype=torch.float32)
    loaded[0].generation_config.max_new_tokens = 4
    monkeypatch.setattr(sweep, "load", lambda name: loaded)
    output = tmp_path / "new" / "sweep.json"
    options = ["--families", "json,counting", "--policies", "threshold=0.5/0.9,factor=1", "--block-sizes", "4,8"]
    assert main([*options, "--limit", "1", "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    for family in ("json", "counting"):
        made = found["families"][family]
        assert [(p["policy"], p["value"], p["block_size"]) for p in made["points"]] == [
            (policy, value, size)
            for size in (4, 8)
            for policy, value in (("threshold", 0.5), ("threshold", 0.9), ("factor", 1))
        ]
        assert made["ar"]["tokens_per_forward"] == 1.0 and any(p["best"] for p in made["points"])
    written = output.with_suffix(".md").read_text()
    assert written == table(found) and written in capsys.readouterr().out
    rows = [line for line in written.splitlines() if line.startswith("| ") and "policy" not in line]
    assert len(rows) == 2 * (1 + 6) and {row.count("|") for row in rows} == {8}
    picture = Image.open(output.with_suffix(".png"))
    assert picture.format == "PNG" and picture.convert("L").getextrema()[0] < 100  # something is drawn


def test_a_panel_has_a_line_for_every_policy_and_marks_ar():
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    found = {"ar": {"accuracy": 1.0, "tokens_per_forward": 1.0}, "points": points([made(0)], [FAST, GOOD, POOR])}
    sweep._panel(axis, found, 8)
    drawn = {line.get_label(): [tuple(map(float, xy)) for xy in line.get_xydata()] for line in axis.lines}
    assert drawn["threshold"] == [(2.0, 1.0), (4.0, 0.75)]  # in order of speed
    assert drawn["factor"] == [(2.0, 0.5)] and drawn["AR"] == [(1.0, 1.0)]


@pytest.mark.parametrize(
    "options, says",
    [
        (["--policies", "treshold"], "unknown policy 'treshold'; did you mean threshold?"),
        (["--policies", "threshold=x"], "policy 'threshold': 'x' is not a number"),
        (["--policies", "factor=-1"], "factor -1.0 must be at least 0"),
        (["--block-sizes", "8,5"], "block_size 5 was not trained; this checkpoint allows 1, 4, 8"),
        (["--block-sizes", "eight"], "--block-sizes 'eight' must be a number of at least 1"),
        (["--families", "jsn"], "unknown family 'jsn'"),
        (["--limit", "0"], "--limit 0 must be at least 1"),
        (["--output", "sweep.md"], "--output sweep.md must end in .json"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    tiny = tiny_model()
    monkeypatch.setattr(sweep, "load", lambda name: tiny)
    assert main(options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1
