"""Sample answers: whose, of which questions, where they go, and that asking changes nothing."""

import json
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_pipelines import playground
from data_pipelines.mixture import Source
from tests.vlm.training.small import data_recipe, save_start, small_recipe
from vlm import VLMForBlockDiffusion, VLMProcessor
from vlm.answering import answer_batch, build_request, settings
from vlm.training import heldout
from vlm.training.recipe import Recipe
from vlm.training.run import run
from vlm.training.samples import LONGEST


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(heldout, "SAMPLES", 3)


def lines(run_dir: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (run_dir / f"{name}.jsonl").read_text().splitlines()]


def test_answers_are_the_models_own_to_heldout_questions(start, tmp_path):
    run(small_recipe(tmp_path, start, max_steps=4, eval_steps=2, sample_answers=2))
    found = lines(tmp_path, "samples")
    assert [(line["step"], line["id"]) for line in found] == [(s, i) for s in (2, 4) for i in _ids(found[:2])]
    model = VLMForBlockDiffusion.from_pretrained(tmp_path / "final").eval()
    processor = VLMProcessor.from_pretrained(tmp_path / "final")
    config = settings(model, max_new_tokens=LONGEST)
    for line in found[2:]:  # step 4 is the final model
        family, index = line["id"].split("/")
        item = playground.item(family, "heldout", heldout.SEED, int(index), 3, 96)
        assert item.turns[0].question in line["question"] and line["expected"] == item.turns[0].answer
        parts = [{"type": "image"}] * len(item.media) if item.kind == "image" else [{"type": "video"}]
        media = item.media if item.kind == "image" else [item.media]
        text = {"type": "text", "text": item.turns[0].question}
        request = build_request(processor, [{"role": "user", "content": [*parts, text]}], media)
        assert answer_batch(model, processor, [request], config)[0].answer == line["answer"]


def _ids(found: list[dict]) -> list[str]:
    return [line["id"] for line in found]


def test_tensorboard_gets_them_as_text(start, tmp_path):
    run(small_recipe(tmp_path, start, max_steps=2, eval_steps=2, save_steps=2, sample_answers=1))
    reader = EventAccumulator(str(next((tmp_path / "runs").glob("*/events*")).parent))
    reader.Reload()
    (event,) = reader.Tensors("samples/text_summary")
    (line,) = lines(tmp_path, "samples")
    text = event.tensor_proto.string_val[0].decode()
    assert event.step == 2 and line["question"] in text and line["expected"] in text


def test_asking_changes_nothing_else_and_resuming_asks_again(start, tmp_path):
    settings = {"max_steps": 4, "eval_steps": 2, "save_steps": 3}
    run(small_recipe(tmp_path / "asked", start, sample_answers=1, **settings))
    run(small_recipe(tmp_path / "silent", start, sample_answers=0, **settings))
    one, two = (
        [
            {k: v for k, v in line.items() if k not in ("tokens_per_second", "waiting", "seconds")}
            for line in lines(tmp_path / name, "metrics")
        ]
        for name in ("asked", "silent")
    )
    assert one == two
    assert not (tmp_path / "silent" / "samples.jsonl").read_text()
    asked = lines(tmp_path / "asked", "samples")
    (tmp_path / "asked" / "checkpoint-4" / "data_position.json").unlink()
    run(small_recipe(tmp_path / "asked", start, sample_answers=1, **settings))
    assert lines(tmp_path / "asked", "samples") == asked


def test_of_ones_own_sources_the_first_usable_samples_are_asked(start, tmp_path):
    user = {"role": "user", "content": "What is it?"}
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    shown = {"role": "user", "content": [{"type": "image", "image": "red.png"}, {"type": "text", "text": "And this?"}]}
    star, sun, red = ({"role": "assistant", "content": f"A {name}."} for name in ("star", "sun", "red"))
    chats = {"bad": [user], "later": [user, red, shown, red], "star": [user, star], "sun": [user, sun, user, red]}
    records = [{"id": name, "messages": messages} for name, messages in chats.items()]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    data = data_recipe(sources=[Source(str(tmp_path / "own.jsonl"))], buffer=1)
    run(small_recipe(tmp_path / "run", start, max_steps=1, eval_steps=1, data=data, sample_answers=2))
    found = lines(tmp_path / "run", "samples")
    assert {line["expected"] for line in found} == {"A star.", "A sun."}
    assert all("What is it?" in line["question"] for line in found)


def test_what_cannot_be_is_refused_by_name(monkeypatch):
    with pytest.raises(ValueError, match="sample_answers must not be negative, but is -1"):
        Recipe(sample_answers=-1)
    monkeypatch.setattr("vlm.training.recipe.find_spec", lambda name: None if name == "wandb" else object())
    Recipe(report_to=["trackio"])
    with pytest.raises(ValueError, match="report_to 'wandb' is not installed: pip install wandb"):
        Recipe(report_to=["tensorboard", "wandb"])
