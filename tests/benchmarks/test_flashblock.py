"""The FlashBlock benchmark: what must hold whatever a machine's speed, and its mistakes."""

import json

import pytest
import torch

from benchmarks.flashblock import MASK, main, random_model, schedule


def test_a_trial_reports_every_way_and_tau_1_is_exact(tmp_path, capsys):
    output = tmp_path / "found.json"
    trial = ["--small", "--contexts", "24", "--block-size", "8", "--blocks", "1", "--repeats", "2"]
    assert main([*trial, "--output", str(output)]) == 0
    (at,) = json.loads(output.read_text())["contexts"]
    assert set(at["attention"]) == set(at["pass"]) == {"usual", "two_parts", "kept"}
    assert set(at["end_to_end"]) == {"usual", "tau 1", "tau 2"}
    assert all(of["seconds"] > 0 for what in ("attention", "pass", "end_to_end") for of in at[what].values())
    by_tau = {of["tau"]: of for of in at["error"]}
    assert (by_tau[1]["reused"], by_tau[1]["agree"]) == (0, 1) and by_tau[1]["error_most"] < 1e-4
    reused = [of["reused"] for of in at["error"]]
    assert reused == sorted(reused) and by_tau["inf"]["reused"] == round(1 - 1 / by_tau["inf"]["passes"], 4)
    assert by_tau["inf"]["error_most"] > by_tau[1]["error_most"]
    assert "tau inf" in capsys.readouterr().out


def test_a_schedule_fills_every_slot_a_few_at_a_time():
    canvases = [*schedule(13, 3), None]
    filled = [13 if c is None else 13 - c.count(MASK) for c in canvases]
    assert filled[0] == 0 and all(1 <= b - a <= 4 for a, b in zip(filled, filled[1:]))


def test_the_full_model_has_between_30_and_100_million_parameters():
    with torch.device("meta"):
        count = sum(p.numel() for p in random_model("full", 8, 64, 0).parameters())
    assert 30e6 <= count <= 100e6


@pytest.mark.parametrize("given, message", [
    (["--contexts", "1k"], "--contexts '1k' must be a number of at least 1"),
    (["--blocks", "0"], "--blocks 0 must be at least 1"),
])  # fmt: skip
def test_mistakes_are_one_line(given, message, tmp_path, capsys):
    assert main([*given, "--output", str(tmp_path / "x.json")]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
