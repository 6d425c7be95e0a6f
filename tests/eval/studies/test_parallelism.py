"""Score against parallelism: verdicts against made-up answers, and a checkpoint that cannot do the tasks."""

import json

import pytest
import torch

from eval.record import ItemRecord
from eval.studies import parallelism
from eval.studies.__main__ import main
from eval.studies.decoders_report import NOTHING
from eval.studies.decoding import AR
from eval.studies.parallelism import DEPENDENT, FIXED, SLOWEST, arms_of, claims_of, tasks_done
from eval.suites import parallel_bench
from tests.vlm.tiny import tiny_model
from vlm.answering import settings

TASKS = ("copy", "shuffle", "latin_square")


def arm(right: dict[str, int], forwards: int) -> list[ItemRecord]:
    """Ten items a task, so many of them right."""
    cost = (16, forwards, 0.1, 1.0, 0.1, "stop")
    scores = [(task, i, float(i < right.get(task, 0))) for task in TASKS for i in range(10)]
    return [ItemRecord(task, i, "?", "x", "y", "strict", s, None, *cost) for task, i, s in scores]


def made(slow, fast, threshold):
    return {SLOWEST: arm(slow, 16), "8 a pass": arm(fast, 2), "threshold 0.9": arm(threshold, 4), AR: arm(slow, 16)}


def test_verdicts_where_dependent_tokens_suffer():
    answers = made({"copy": 9, "shuffle": 9}, {"copy": 9, "shuffle": 1}, {"copy": 9, "shuffle": 2})
    assert tasks_done(answers) == ["copy", "shuffle"]  # nobody does latin squares: they are in no verdict
    overall, apart, adaptive = claims_of(answers)
    assert {c.verdict for c in (overall, apart, adaptive)} == {"confirmed"}
    figures = [c.figure.value for c in (overall, apart, adaptive)]
    assert figures == pytest.approx([(0 - 80) / 2, -80 - 0, -70])


def test_verdicts_where_nothing_suffers():
    right = {"copy": 9, "shuffle": 9}
    assert {c.verdict for c in claims_of(made(right, right, right))} == {"not distinguishable"}
    better = made({"copy": 9, "shuffle": 1}, {"copy": 9, "shuffle": 9}, {"copy": 9, "shuffle": 9})
    assert {c.verdict for c in claims_of(better)} == {"contradicted"}


def test_what_is_not_done_at_one_token_a_pass_is_not_judged():
    assert claims_of(made({}, {"copy": 3}, {})) == []
    only_copies = claims_of(made({"copy": 9}, {"copy": 3}, {"copy": 3}))
    assert [c.text for c in only_copies] == ["8 a pass scores below 1 a pass"]


def test_the_groups_are_tasks_of_the_suite_and_apart():
    assert not {*DEPENDENT} & {*FIXED} and {*DEPENDENT, *FIXED} <= {*parallel_bench.TASKS}


def test_arms_commit_so_many_tokens_a_pass():
    model, processor = tiny_model(block_size=8)
    arms = arms_of(model, 1)
    assert [a.name for a in arms if a.name.endswith(" a pass")] == [f"{n} a pass" for n in (1, 2, 4, 8)]
    for a in arms:
        config = settings(model, tokenizer=processor.tokenizer, **a.overrides)
        if a.name.endswith(" a pass"):
            assert int(a.name.split()[0]) * config.denoising_steps == 8 and config.policy == "static"


@pytest.fixture
def tiny(monkeypatch):
    model, processor = tiny_model(dtype=torch.float32)
    monkeypatch.setattr(parallelism, "load", lambda name: (model, processor))
    monkeypatch.setattr(parallelism, "MAX_NEW_TOKENS", 4)


def command(output, *more):
    return main(["parallelism", "--limit", "1", "--families", "copy,shuffle_image", "--output", str(output), *more])


def test_a_checkpoint_that_cannot_do_the_tasks_has_nothing_to_compare(tiny, tmp_path, monkeypatch, capsys):
    assert command(tmp_path) == 0
    text = capsys.readouterr().out
    assert NOTHING in text and "erdict" not in text and not list(tmp_path.glob("*.png"))
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["claims"] == [] and {a["score"]["value"] for a in found["arms"].values()} == {0}
    monkeypatch.setitem(parallelism.answer_all.__globals__, "answered", lambda *_: pytest.fail("asked again"))
    assert command(tmp_path) == 0 and capsys.readouterr().out == text


def test_a_checkpoint_that_can_has_curves_and_verdicts(tiny, tmp_path, monkeypatch):
    real = parallel_bench.suite

    def right(seed):
        made = real(seed)
        return type(made)(**{**vars(made), "score": lambda asked, answer: (float(asked.family == "copy"), None)})

    monkeypatch.setattr(parallel_bench, "suite", right)
    assert command(tmp_path) == 0
    text = (tmp_path / "report.md").read_text()
    assert "4 a pass scores below 1 a pass" in text and "in no verdict: shuffle" in text
    assert (tmp_path / "parallelism.png").stat().st_size > 5000
    assert json.loads((tmp_path / "results.json").read_text())["arms"]["1 a pass"]["score"]["value"] == 50
