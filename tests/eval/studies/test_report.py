"""What a study writes: the text of its tables, the JSON, the plots."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from eval.studies.frame import Claim, Interval, Result
from eval.studies.report import Column, Plot, arms_table, claims_table, write

CLAIMS = [
    Claim("a beats b", "48.6 against 31.4", "a paper", "higher", Interval(3.0, 1.0, 5.0), "points"),
    Claim("a is quieter", "lower by 30 %", "hearsay", "lower", Interval(12.5, -1.25, 26.25), "%", digits=2),
]
CURVE = [(step, 4 / step) for step in range(1, 21)]
RESULTS = [
    Result(arm, seed, {"score": 50 + 10 * seed + 20 * (arm == "+a"), "loss": 0.5}, {"loss curve": CURVE})
    for arm in ("+a", "b")
    for seed in range(3)
]


def test_a_claim_stands_with_its_figures_and_verdict():
    first, second = claims_table(CLAIMS).rows
    assert first == ("a beats b", "48.6 against 31.4 (a paper)", "+3.0 [+1.0, +5.0] points", "confirmed")
    assert second[2:] == ("+12.50 [-1.25, +26.25] %", "not distinguishable")


def test_the_table_of_arms_holds_mean_and_interval():
    table = arms_table(RESULTS, [Column("score", "score, %", 1), Column("loss", "training loss", 3)])
    assert table.header == ("arm", "score, %", "training loss")
    half = 4.3027 * 10 / math.sqrt(3)  # Student's t of two degrees of freedom; the scores' deviation is 10
    assert table.rows[0] == ("+a", f"80.0 [{80 - half:.1f}, {80 + half:.1f}]", "0.500 [0.500, 0.500]")


def test_a_report_is_written_whole(tmp_path):
    plots = (Plot("curves", "loss curve", "loss", 5), Plot("bars", "score", "score, %"))
    text = write(tmp_path, "A study", "About it.", RESULTS, [Column("score", "score, %", 1)], CLAIMS, plots)
    assert (tmp_path / "report.md").read_text() == text
    assert text.startswith("# A study\n\nAbout it.\n\n## Verdicts\n\n| claim |")
    assert "## Arms: mean of 3 seeds with 95 % interval" in text
    for name in ("loss-curve.png", "score.png"):
        assert f"]({name})" in text
        assert np.asarray(Image.open(tmp_path / name).convert("L")).std() > 5  # something is drawn
    told = json.loads((tmp_path / "results.json").read_text())
    assert told["claims"][0]["verdict"] == "confirmed" and told["claims"][0]["figure"]["low"] == 1.0
    assert told["results"][0] == {"arm": "+a", "seed": 0, "score": 70, "loss": 0.5}


@pytest.mark.parametrize("count, said", [(1, "1 seed "), (2, "2 seeds ")])
def test_the_number_of_seeds_is_said(tmp_path, count, said):
    few = [result for result in RESULTS if result.seed < count]
    text = write(tmp_path, "t", "a", few, [Column("score", "score", 1)], [], ())
    assert f"mean of {said}" in text and ("(no interval)" in text) == (count == 1)
