"""The adapter benchmark: its data, its scores, its report; training and evaluation stand aside."""

import json

import pytest
from PIL import Image

from benchmarks import lora
from benchmarks.lora import form, lines, main, scored, value_in, write
from data_pipelines.playground import item
from data_pipelines.readers import read


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_data_are_playground_items_in_the_form(tmp_path, split):
    write(tmp_path / "some.jsonl", split, 4, seed=3)
    found = list(read(str(tmp_path / "some.jsonl")))
    assert len(found) == 4
    for index, sample in enumerate(found):
        family = lora.FAMILIES[index % 2]
        made = item(family, split, 3, index, max_side=lora.MAX_SIDE)
        asked, answered = sample.messages
        picture, text = asked["content"]
        assert text["text"] == f"{made.turns[0].question} Answer in brackets."
        assert Image.open(picture["image"]).tobytes() == made.media[0].tobytes()
        assert answered["content"] == f"[{made.turns[0].answer}]"


@pytest.mark.parametrize(
    "answer, value",
    [
        (form("red"), "red"),
        ("[]", ""),
        ("red", None),
        ("[red", None),
        ("[red] [blue]", None),
        ("[[red]]", None),
        ("It is [red]", None),
    ],
)
def test_an_answer_has_the_form_or_not(answer, value):
    assert value_in(answer) == value


def test_form_value_and_both_are_scored_apart():
    said = [form("red"), form("blue"), "red", "blue"]
    found = scored([{"answer": answer, "expected": form("red")} for answer in said])
    assert found == {"right": 0.25, "in_form": 0.5, "value": 0.5}


@pytest.fixture
def steps(monkeypatch):
    """What the benchmark would do, in order; the adapter answers in form, and so does what was merged of it."""
    done = []

    def answers(folder, name, limit, options):
        done.append((name, options))
        said = "3" if name == "before" else form("3")
        if name.endswith("merged") and name.startswith("lora"):
            said = form("4")
        return [{"answer": said, "expected": form("3")}] * limit

    def train(way, folder, count, model):
        (folder / way / "final").mkdir(parents=True)
        (folder / way / "final" / "adapter_model.safetensors").write_bytes(bytes(2**20))
        done.append((way, count, model))
        return 1.5

    monkeypatch.setattr(lora, "answers", answers)
    monkeypatch.setattr(lora, "train", train)
    monkeypatch.setattr(lora, "merge", lambda adapter, output, base_quantize: done.append(("merge", base_quantize)))
    return done


def test_both_ways_are_trained_evaluated_merged_and_evaluated(tmp_path, steps, capsys):
    folder, output = tmp_path / "work", tmp_path / "report.json"
    asked = ["--steps", "5", "--samples", "2", "--limit", "2", "--folder", str(folder), "--output", str(output)]
    assert main(asked) == 0
    final = {way: ["--adapter", str(folder / way / "final")] for way in lora.WAYS}
    merged = {way: ["--model", str(folder / way / "merged")] for way in lora.WAYS}
    assert steps == [
        ("before", []),
        *[
            entry
            for way, kind in (("lora", None), ("qlora", "nf4"))
            for entry in (
                (way, 5, "embedded"),
                (f"{way}-adapter", final[way]),
                ("merge", kind),
                (f"{way}-merged", merged[way]),
            )
        ],
    ]
    report = json.loads(output.read_text())
    assert report["ways"]["qlora"]["before"] == {"right": 0.0, "in_form": 0.0, "value": 1.0}
    assert report["ways"]["qlora"]["adapter"]["right"] == report["ways"]["qlora"]["merged"]["right"] == 1.0
    assert report["ways"]["lora"]["merged_answers_alike"] == 0
    said = capsys.readouterr().out
    assert said == lines(report) + "\n" and said.count("FAULT") == 1  # LoRA's merged answers differ


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--ways", "dora"], "way 'dora' is not one of lora, qlora"),
        (["--steps", "0"], "--steps 0 must be at least 1"),
        (["--limit", "0"], "--limit 0 must be at least 1"),
    ],
)
def test_mistakes_are_one_line(tmp_path, steps, capsys, arguments, says):
    places = ["--folder", str(tmp_path / "work"), "--output", str(tmp_path / "report.json")]
    assert main([*places, *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and not steps
