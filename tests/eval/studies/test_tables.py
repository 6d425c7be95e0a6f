"""DiffusionVL's tables: verdicts against made-up answers, a tiny study, and checkpoints that cannot give them."""

import json

import pytest
import torch

from eval.record import ItemRecord
from eval.studies import tables
from eval.studies.__main__ import main
from eval.studies.decoding import AR
from eval.studies.tables import SIZES, THRESHOLDS, arms_of, cell, claims_of
from tests.vlm.tiny import tiny_model


def column(right, forwards, decode_s):
    cost = (64, forwards, 0.1, decode_s, 0.1, "stop")
    scores = [1.0] * right + [0.0] * (20 - right)
    return [ItemRecord("a", i, "?", "x", "y", "accuracy", s, None, *cost) for i, s in enumerate(scores)]


def made(worse, faster):
    """A grid in which every step to a larger block or a lower threshold costs and saves that much."""
    answers = {}
    for row, size in enumerate(SIZES):
        for far, tau in enumerate(reversed(THRESHOLDS)):
            answers[cell(size, tau)] = column(
                10 - worse * (row + far), 32 - faster * (row + far), 4 - 0.2 * faster * (row + far)
            )
    return answers


def test_verdicts_follow_from_the_grid():
    assert [c.verdict for c in claims_of("a", list(SIZES), made(1, 1))] == ["confirmed"] * 6
    assert [c.verdict for c in claims_of("a", list(SIZES), made(-1, -1))] == ["contradicted"] * 6
    assert [c.verdict for c in claims_of("a", list(SIZES), made(0, 0))] == ["not distinguishable"] * 6
    # Costless speed: faster, and no less accurate.
    mixed = [c.verdict for c in claims_of("a", list(SIZES), made(0, 1))]
    assert mixed == ["not distinguishable", "confirmed", "confirmed"] * 2


def test_figures_are_those_of_the_pooled_ends():
    """Ends differ by three rows, or six columns: of 20 items that many more wrong, that many passes fewer."""
    found = claims_of("a", list(SIZES), made(1, 1))
    assert [found[0].figure.value, found[3].figure.value] == pytest.approx([-15.0, -30.0])
    rows = [sum(32 - row - far for far in range(7)) for row in (0, 3)]
    assert found[2].figure.value == pytest.approx(100 * (rows[0] / rows[1] - 1))
    seconds = [sum(4 - 0.2 * (row + far) for far in range(7)) for row in (0, 3)]
    assert found[1].figure.value == pytest.approx(100 * (seconds[0] / seconds[1] - 1))


def test_the_fastest_cell_is_one_that_is_not_worse():
    answers = made(1, 1)
    said = tables._fastest(list(SIZES), answers)
    assert said.startswith("Best score: blocks of 4 at 1.0.")
    assert "32 at 0.5" not in said and "32 at 0.5" in tables._fastest(list(SIZES), made(0, 1))


@pytest.fixture
def tiny(monkeypatch):
    model, processor = tiny_model(dtype=torch.float32)
    model.generation_config.max_new_tokens = 4
    monkeypatch.setattr(tables, "load", lambda name: (model, processor))
    monkeypatch.setattr(tables, "THRESHOLDS", (0.5, 1.0))
    return model


def command(output, *more):
    return main(["tables", "--limit", "2", "--families", "json", "--output", str(output), *more])


def test_a_study_runs_from_one_command_and_is_not_redone(tiny, tmp_path, monkeypatch, capsys):
    assert command(tmp_path) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "report.md").read_text() + "\n" == text and (tmp_path / "json.png").stat().st_size > 5000
    found = json.loads((tmp_path / "results.json").read_text())
    cells = [cell(size, tau) for size in (4, 8) for tau in (0.5, 1.0)]  # the sizes that it was trained with
    assert list(found["families"]["json"]) == [*cells, AR] and len(found["claims"]) == 6
    assert "| not distinguishable |" in text and "| confirmed |" not in text  # of two items

    one = tmp_path / "playground" / "8_at_0.5" / "items.jsonl"
    kept = one.read_text()
    one.write_text(kept.splitlines(keepends=True)[0])  # as a kill would leave it
    assert command(tmp_path) == 0
    again = [json.loads(line) for line in one.read_text().splitlines()]
    assert [r["answer"] for r in again] == [json.loads(line)["answer"] for line in kept.splitlines()]
    monkeypatch.setitem(tables.answer_all.__globals__, "answered", lambda *_: pytest.fail("asked again"))
    assert command(tmp_path) == 0
    assert command(tmp_path, "--seed", "2") == 2
    assert "holds another study: its seed is 1, not 2" in capsys.readouterr().err


def test_a_threshold_commits_what_reaches_it_in_blocks_of_the_cell(tiny):
    arms = {arm.name: arm.overrides for arm in arms_of(tiny, [4, 8], 1)}
    assert arms["8 at 0.5"] == {"policy": "threshold", "policy_args": {}, "threshold": 0.5, "block_size": 8}
    assert arms[AR] == {"mode": "ar"}


def test_a_checkpoint_of_one_size_has_no_tables(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tables, "load", lambda name: tiny_model(trained_block_sizes=(4,)))
    assert command(tmp_path / "out", "--model", "some") == 2
    assert "some: trained with blocks of 4; the tables need two of" in capsys.readouterr().err
