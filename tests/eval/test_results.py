"""``python -m eval.results``: which commands it runs, and a page whose numbers are those of the runs."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from eval import results
from eval.__main__ import parse
from eval.output import continued
from eval.record import ItemRecord, RunRecord
from eval.results import main, parts
from eval.suites import parallel_bench, playground

N = 4


def found(options):
    """Answers that depend on the settings: int8 errs once more than fp32; AR is right and slow."""
    ar, int8 = options.mode == "ar", options.quantize is not None
    settings = {"mode": options.mode, "quantize": options.quantize, "threshold": options.threshold or 0.9}
    suite = {"playground": playground, "parallel_bench": parallel_bench}[options.suite].suite(1)
    families = ("attributes", "counting") if options.suite == "playground" else tuple(suite.metrics)[:2]
    run = RunRecord(options.suite, {}, "m", "w8" if int8 else "w", settings, options.limit, 1, 8)
    cost = (6, 7 if ar else 3, 0.5, 1.2 if ar else 0.6, 1.0, "stop")
    wrong = lambda i: not ar and i == 0 or int8 and i == 1  # noqa: E731
    return run, [
        ItemRecord(f, i, "q", "bad" if wrong(i) else "good", "good", "accuracy", float(not wrong(i)), None, *cost)
        for f in families
        for i in range(N)
    ]


@pytest.fixture
def ran(monkeypatch):
    """Commands in the order in which they were run; each leaves what `found` says."""
    commands = []

    def evaluate(command):
        commands.append(command)
        options = parse(command)
        run, records = found(options)
        with continued(Path(options.output), run) as (done, append):
            append([record for record in records if (record.family, record.index) not in done])
        return 0

    monkeypatch.setattr(results, "evaluate", evaluate)
    return commands


def row(text, heading, name):
    section = text.split(f"## {heading}")[1].split("\n## ")[0]
    return [cell.strip() for cell in re.search(rf"^\| {name} \|(.*)\|$", section, re.MULTILINE)[1].split("|")]


def test_the_page_says_what_the_runs_say(ran, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "block_size", lambda model: 8)
    output = tmp_path / "docs" / "results.md"
    options = ["--limit", "4", "--work", str(tmp_path / "runs"), "--output", str(output)]
    assert main(options) == 0
    text = output.read_text(encoding="utf-8")
    assert row(text, "All families, block diffusion", "counting")[:3] == ["4", "accuracy", "75.0"]
    assert row(text, "All families, autoregressive", "mean")[2] == "100.0"
    assert row(text, "Block diffusion (B) against", "mean")[1:4] == ["100.0", "75.0", "-25.0"]
    assert "block diffusion: 6 of 8 answers are the same to the letter." in text
    # Decoding took 8 · 1.2 s in AR, 8 · 0.6 s in blocks; a forward 1.2 / 6 = 0.2 s and 0.6 / 2 = 0.3 s.
    assert row(text, "Speed", "ar") == ["0.86", "1", "4", "9.6", "1", "1", "0.2000"]
    assert row(text, "Speed", "block") == ["2", "8", "4", "4.8", "2", f"{8 * 0.2 / 0.3:.3g}", "0.3000"]
    assert "![Mean score against tokens per forward](results.svg)" in text
    ElementTree.fromstring((output.parent / "results.svg").read_text(encoding="utf-8"))
    for command in ran:
        assert f"python -m eval {' '.join(command)}" in text
    before = text
    assert main(options) == 0 and output.read_text(encoding="utf-8") == before


def test_the_runs_cover_modes_precisions_and_thresholds(ran, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "block_size", lambda model: 8)
    where = ["--work", str(tmp_path), "--output", str(tmp_path / "r.md"), "--model", "DIR", "--parallel-limit", "2"]
    assert main([*where, "--limit", "3"]) == 0
    asked = [parse(command) for command in ran]
    kinds = {(a.suite, a.mode, a.quantize, a.threshold) for a in asked}
    assert {("playground", m, q, None) for m in ("block", "ar") for q in (None, "int8")} <= kinds
    assert {a.limit for a in asked if a.suite == "playground"} == {3} and {a.model for a in asked} == {"DIR"}
    assert {a.limit for a in asked if a.suite == "parallel_bench"} == {2}
    assert len({a.output for a in asked}) == len(asked) == len(parts(False)) > len(parts(True))


def test_a_run_that_fails_ends_it(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "evaluate", lambda command: 2)
    assert main(["--work", str(tmp_path), "--output", str(tmp_path / "r.md")]) == 2
    assert not (tmp_path / "r.md").exists()


def test_runs_of_different_items_are_refused(ran, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(results, "block_size", lambda model: 8)
    monkeypatch.setattr(results, "load", lambda path: (lambda run: (replace(run[0], seed=len(path.name)), run[1]))(
        found(parse(["run", "--mode", "ar" if "ar" in path.name else "block"]))
    ))  # fmt: skip
    assert main(["--work", str(tmp_path), "--output", str(tmp_path / "r.md")]) == 2
    assert "the runs differ in seed" in capsys.readouterr().err
