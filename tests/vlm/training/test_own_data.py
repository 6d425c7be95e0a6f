"""Training on one's own files: the same batches from anywhere, bad samples listed, unlearnt turns left alone."""

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from data_pipelines.batching import length_buckets
from data_pipelines.errors import DataError
from data_pipelines.media import open_media
from data_pipelines.mixture import Source
from data_pipelines.packing import packed_batches
from tests.vlm.tiny import tiny_model
from tests.vlm.training.small import data_recipe, pair
from train import main
from vlm.layout import answer_spans
from vlm.training.own_data import OwnStream, own_texts, skipped_reasons


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "pictures").mkdir()
    for name in ("red", "green", "blue"):
        Image.new("RGB", (30, 20), name).save(tmp_path / "pictures" / f"{name}.png")
    return tmp_path


def llava(n: int) -> list[dict]:
    """Picture questions, every third without a picture."""
    records = []
    for i in range(n):
        colour = ("red", "green", "blue")[i % 3]
        turns = [{"from": "human", "value": f"<image>\nWhat color is {i}?"}, {"from": "gpt", "value": colour}]
        records.append({"id": str(i), "image": f"{colour}.png", "conversations": turns})
        if i % 3 == 2:
            turns[0]["value"] = f"Name color {i}."
            del records[-1]["image"]
    return records


def write(folder, records):
    (folder / "data.json").write_text(json.dumps(records))
    return Source(str(folder / "data.json"), weight=3, media_root=str(folder / "pictures"))


def own(folder, sources, longest=None, **changes) -> OwnStream:
    model, processor = pair()
    recipe = data_recipe(sources=sources, **changes)
    return OwnStream(recipe, processor, model.config.traits, 0, longest, folder / "skipped.jsonl")


def ids(batch) -> list[str]:
    return [sample.encoded.id for sample in batch.samples]


def packs(batch) -> list[list[str]]:
    """The samples of every row."""
    rest = iter(ids(batch))
    return [list(islice(rest, length)) for length in batch.packs]


@pytest.mark.parametrize("capacity", [None, 200])
def test_batches_go_on_from_any_position_and_processes_share_them(folder, capacity):
    sources, cut = [write(folder, llava(10)), Source("playground:counting", weight=1)], {"row_capacity": capacity}
    batches = [batch for batch, _ in zip(own(folder, sources, **cut), range(12))]
    for at in (1, 4, 7):
        again = own(folder, sources, **cut)
        again.start = batches[at].position
        assert [packs(batch) for batch, _ in zip(again, range(3))] == [packs(b) for b in batches[at : at + 3]]
    for index in (0, 1):
        shared = own(folder, sources, **cut)
        shared.shard = (index, 2)
        assert [packs(batch) for batch, _ in zip(shared, range(4))] == [packs(b) for b in batches[index:8:2]]
    assert any(len(pack) > 1 for batch in batches for pack in packs(batch)) == (capacity is not None)
    assert any("playground/counting" in name for batch in batches for name in ids(batch))
    assert any(len(sample.encoded.images) == 0 for batch in batches for sample in batch.samples)


def test_turns_without_loss_are_read_and_not_learnt(folder):
    turns = [("user", "What?"), ("assistant", "red"), ("user", "And?"), ("assistant", "blue"), ("user", "So?"),
             ("assistant", "green")]  # fmt: skip
    messages = [{"role": role, "content": text} for role, text in turns]
    _, processor = pair()
    whole = processor.encode(messages, [])
    messages[1]["loss"], messages[3]["loss"] = False, True
    part = processor.encode(messages, [])
    assert np.array_equal(part.input_ids, whole.input_ids)
    assert answer_spans(part.is_answer) == answer_spans(whole.is_answer)[1:]
    (folder / "loss.jsonl").write_text(json.dumps({"id": "x", "messages": messages}) + "\n")
    sample = own(folder, [Source(str(folder / "loss.jsonl"))]).sample(0)
    learnt = set(sample.layout.source[sample.layout.maskable]) - {-1}
    assert learnt == set(np.flatnonzero(part.is_answer))
    assert set(np.flatnonzero(sample.layout.next_supervised) + 1) == learnt


def spoilt(folder) -> Source:
    """Eight samples, of which four cannot be used."""
    records = llava(8)
    records[0]["image"] = "gone.png"
    records[1]["conversations"][1]["value"] = "blue " * 400
    records[3]["conversations"] = records[3]["conversations"][:1]
    records[4]["conversations"][1]["value"] = "<|end|>"
    return write(folder, records)


def test_bad_samples_are_listed_once_and_leave_the_others_alone(folder):
    stream = own(folder, [spoilt(folder)])
    for number in range(4):
        good = [s.encoded.id for samples in stream.window(number) for s in samples]
        assert sorted(name.split(" (")[0].rpartition(" ")[2] for name in good) == ["3", "6", "7", "8"]
    reasons = sorted(skipped_reasons(folder / "skipped.jsonl"))
    assert len(reasons) == 4
    for reason, says in zip(reasons, ("gone.png: no such file", "more than data.rows_per_batch 900",
                                      "no answer token", "reserved token")):  # fmt: skip
        assert says in reason and reason.startswith(str(folder / "data.json"))
    assert "item 1" in reasons[0] and "sample '1'" in reasons[1]


def moving(folder) -> Source:
    """Samples with pictures, with clips of several numbers of frames, and without either."""
    frames = [Image.new("RGB", (8, 6), (0, 25 * i, 0)) for i in range(9)]
    frames[0].save(folder / "pictures" / "a.gif", save_all=True, append_images=frames[1:], duration=200)
    records = llava(9)
    for number, record in enumerate(records[::2]):
        record.pop("image", None)
        clip = {"type": "video", "video": "a.gif", "max_frames": 2 + number, **({"fps": 4} if number == 1 else {})}
        asked = {"role": "user", "content": [clip, {"type": "text", "text": "What moves?"}]}
        record["messages"] = [asked, {"role": "assistant", "content": "green " * (1 + number)}]
        del record["conversations"]
    return write(folder, records)


@pytest.mark.parametrize("capacity", [None, 200])
def test_windows_are_cut_as_if_all_their_samples_had_been_read(folder, capacity):
    """The oracle makes every sample first and cuts then, as a window was once cut."""
    stream = own(folder, [moving(folder), Source("playground:counting", weight=1)], row_capacity=capacity)
    for number in range(3):
        made = [stream.sample(index) for index in range(8 * number, 8 * number + 8)]
        if capacity is None:
            expected = length_buckets(made, lambda s: len(s.layout.ids), 900, 8, seed=stream.seed + number)
        else:
            batches = packed_batches(made, lambda s: len(s.layout.ids), capacity, 900, seed=stream.seed + number)
            expected = [[sample for pack in batch for sample in pack] for batch in batches]
        found = list(stream.window(number))
        assert [[s.encoded.id for s in batch] for batch in found] == [[s.encoded.id for s in b] for b in expected]
        for sample in (s for batch in found for s in batch):
            index = int(sample.encoded.id.rpartition(" ")[2][:-1])
            assert stream.plan(index).rows == len(sample.layout.ids)


def test_media_are_read_when_their_batch_is_due_and_not_before(folder, monkeypatch):
    opened = []

    def noted(messages, **settings):
        opened.append(messages)
        return open_media(messages, **settings)

    monkeypatch.setattr("vlm.training.own_data.open_media", noted)
    batches = iter(own(folder, [write(folder, llava(20))], window=20, rows_per_batch=200))
    read = 0
    for _ in range(2):
        read += len(next(batches).samples)
        assert len(opened) == read < 20


@pytest.mark.parametrize("capacity", [None, 200])
def test_damaged_pixels_leave_their_place_in_the_batch_empty(folder, capacity):
    sources, settings = [write(folder, llava(8))], {"buffer": 1, "row_capacity": capacity}
    whole = [packs(batch) for batch, _ in zip(own(folder, sources, **settings), range(6))]
    path = folder / "pictures" / "green.png"
    Image.effect_noise((30, 20), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:-40])  # its header stays
    bad = ("item 2 (", "item 5 (", "item 8 (")
    left = [[[name for name in pack if not any(item in name for item in bad)] for pack in batch] for batch in whole]
    expected = [kept for batch in left if (kept := [pack for pack in batch if pack])]
    found = own(folder, sources, **settings)
    assert [packs(batch) for batch, _ in zip(found, expected)] == expected != whole
    reasons = skipped_reasons(folder / "skipped.jsonl")
    assert len(reasons) == 3 and all("green.png" in r and "truncated or damaged" in r for r in reasons)


def test_a_run_whose_media_are_all_damaged_ends(folder, monkeypatch):
    sources = [write(folder, [record for record in llava(8) if "image" in record])]
    for path in (folder / "pictures").iterdir():
        Image.effect_noise((30, 20), 50).convert("RGB").save(path)
        path.write_bytes(path.read_bytes()[:-40])
    monkeypatch.setattr("vlm.training.own_data.BARREN", 16)
    with pytest.raises(DataError, match="the last 16 samples cannot be used"):
        next(iter(own(folder, sources)))


def test_a_sample_longer_than_the_model_is_bad(folder):
    with pytest.raises(DataError, match="positions, but the model has 9"):
        own(folder, [write(folder, llava(3))], longest=9).sample(0)


def test_under_raise_the_first_bad_sample_stops_and_with_none_good_the_run_ends(folder, monkeypatch):
    with pytest.raises(DataError, match="item"):
        list(own(folder, [spoilt(folder)], bad_samples="raise").window(0))
    records = llava(8)
    for record in records:
        record["image"] = "gone.png"
        record["conversations"][0]["value"] = "<image>"
    monkeypatch.setattr("vlm.training.own_data.BARREN", 16)
    with pytest.raises(DataError, match="the last 16 samples cannot be used"):
        next(iter(own(folder, [write(folder, records)])))


def test_the_tokenizer_learns_from_the_sources_own_words(folder):
    texts = list(own_texts(data_recipe(sources=[write(folder, llava(4))]), seed=0, n_samples=4))
    assert sorted(texts) == sorted(["What color is 0?", "red", "What color is 1?", "green", "Name color 2.", "blue",
                                    "What color is 3?", "red"])  # fmt: skip


@pytest.mark.slow
def test_two_steps_of_train_py_on_a_llava_file(folder, capsys):
    model, processor = tiny_model(dtype=torch.float32)
    model.save_pretrained(folder / "start")
    processor.save_pretrained(folder / "start")
    source = spoilt(folder)
    recipe = {
        "init_from": str(folder / "start"), "max_steps": 2, "save_steps": 2, "log_steps": 1, "precision": "fp32",
        "eval_steps": 50, "optim": {"warmup_steps": 1, "decay_steps": 1},
        "data": {"sources": [{"path": source.path, "media_root": source.media_root}], "workers": 0, "window": 8,
                 "rows_per_batch": 900, "block_sizes": {4: 1.0}},
    }  # fmt: skip
    (folder / "own.yaml").write_text(yaml.safe_dump(recipe))
    command = ["--config", str(folder / "own.yaml"), "--output_dir"]
    assert main([*command, str(folder / "run")]) == 0
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]
    assert all(line["seconds"]["decode"] > 0 for line in lines if "loss" in line)
    assert all(np.isfinite(line["loss"]) and line["diffusion_loss"] > 0 for line in lines if "loss" in line)
    assert (folder / "run" / "final" / "model.safetensors").exists()
    assert "4 samples were skipped" in capsys.readouterr().err
    assert main([*command, str(folder / "stopped"), "--data.bad_samples", "raise", "--data.workers", "1"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert str(folder / "data.json") in line and "Traceback" not in line


def test_sources_and_a_stages_own_phases_exclude_each_other(folder):
    from tests.vlm.training.small import small_recipe
    from vlm.training.curricula import Phase, Stage
    from vlm.training.recipe import OptimRecipe

    stage = Stage(2, {"projector": 1e-3}, "one", phases=[Phase(0, {"counting": 1.0})])
    recipe = small_recipe(folder / "run", optim=OptimRecipe(warmup_steps=0, decay_steps=0), max_steps=2)
    assert replace(recipe, stages=[stage]).stages == [stage]
    with pytest.raises(ValueError, match="data.sources and the phases of a stage"):
        replace(recipe, data=data_recipe(sources=[Source("playground:counting", weight=1)]), stages=[stage])
