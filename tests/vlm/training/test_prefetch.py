"""Samples made ahead: the same ones in the same order, however many workers, and never too many of them."""

import os
import time
from dataclasses import replace
from itertools import count, islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipelines.mixture import Source
from tests.vlm.training.small import data_recipe, stream
from tests.vlm.training.test_own_data import folder, llava, own, spoilt, write  # noqa: F401
from vision_encoders import Picture, Pictures
from vlm.training.own_data import skipped_reasons
from vlm.training.prefetch import in_order, pinned
from vlm.training.sections import CacheRecipe
from vlm.training.trainer import BlockDiffusionTrainer


def square(index: int) -> tuple[int, int]:
    if index % 5 == 0:
        time.sleep(0.005)  # so that workers do not finish in turn
    return os.getpid(), index * index


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_order_and_from_the_workers(workers):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = list(islice(in_order(square, count(7), workers, ahead=6), 30))
    assert [result for _, result in found] == [index * index for index in range(7, 37)]
    processes = {process for process, _ in found}
    assert processes == {os.getpid()} if workers == 0 else len(processes) == workers and os.getpid() not in processes
    assert torch.equal(torch.get_rng_state(), before)  # dropout draws what it would have drawn


def test_workers_wait_when_enough_results_do(tmp_path):
    calls = tmp_path / "calls"
    calls.mkdir()

    def note(index: int) -> int:
        (calls / str(index)).touch()
        return index

    results = in_order(note, count(), 2, ahead=5)  # six: a multiple of two
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    for _ in range(100):
        if len(list(calls.iterdir())) == 3 + 6:
            break
        time.sleep(0.05)
    time.sleep(0.3)
    assert sorted(int(p.name) for p in calls.iterdir()) == list(range(3 + 6))


def ids(batches) -> list:
    return [([s.encoded.id for s in batch.samples], batch.packs, batch.position) for batch in batches]


@pytest.mark.parametrize("capacity", [None, 450])
def test_the_playground_stream_is_the_same_with_any_number_of_workers(capacity):
    here = list(islice(stream(recipe=data_recipe(row_capacity=capacity)), 12))
    there = list(islice(stream(recipe=data_recipe(row_capacity=capacity, workers=2)), 12))
    assert ids(here) == ids(there) and here[-1].position[0] > 1
    for one, other in zip(here, there):
        for a, b in zip(one.samples, other.samples):
            assert np.array_equal(a.encoded.images, b.encoded.images) and np.array_equal(a.layout.ids, b.layout.ids)
    again = stream(recipe=data_recipe(row_capacity=capacity, workers=2))
    again.start = here[4].position
    assert ids(islice(again, 3)) == ids(here[4:7])


@pytest.mark.parametrize("capacity", [None, 200])
def test_own_samples_are_the_same_and_bad_ones_listed_once_with_workers(folder, capacity):  # noqa: F811
    sources = [spoilt(folder), Source("playground:counting", weight=1)]
    here = ids(islice(own(folder, sources, row_capacity=capacity), 12))
    listed = sorted(skipped_reasons(folder / "skipped.jsonl"))
    (folder / "skipped.jsonl").unlink()
    assert ids(islice(own(folder, sources, workers=2, row_capacity=capacity), 12)) == here
    assert sorted(skipped_reasons(folder / "skipped.jsonl")) == listed and len(set(listed)) == len(listed) >= 4


def test_a_cache_changes_no_sample_and_spares_decoding(folder, monkeypatch):  # noqa: F811
    sources = [write(folder, llava(8))]
    plain = own(folder, sources)
    kept = own(folder, sources, cache=CacheRecipe(str(folder / "kept"), max_gb=0.01))
    for index in range(8):
        assert np.array_equal(kept.sample(index).encoded.images, plain.sample(index).encoded.images)
    monkeypatch.setattr("data_pipelines.media.load_image", None)  # nothing can be decoded any more
    for index in range(8):
        kept.sample(index)
    with pytest.raises(TypeError):
        [plain.sample(index) for index in range(8)]


def test_the_recipes_sampling_holds_for_its_videos(folder):  # noqa: F811
    frames = [Image.new("RGB", (8, 6), (0, 30 * i, 0)) for i in range(8)]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:], duration=500)
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "red"}]
    source = write(folder, [{"id": "v", "video": "a.gif", "conversations": turns}])
    source = replace(source, media_root=str(folder))
    assert len(own(folder, [source]).sample(0).encoded.frames) == 8
    recipe = own(folder, [source]).recipe
    few = own(folder, [source], video=replace(recipe.video, fps=1.0, end=2.0))
    assert len(few.sample(0).encoded.frames) == 3


def test_a_cpu_batch_is_not_pinned():
    batch = {"ids": torch.zeros(2)}
    assert pinned(batch, torch.device("cpu")) is batch


class Pinned(torch.Tensor):
    """What pinning gives where there is no GPU; notes how it is copied."""

    copied = []

    def is_pinned(self):
        return True

    def to(self, device, non_blocking=False):
        Pinned.copied.append((device, non_blocking))
        return self


def gpu_batch() -> dict:
    """A tensor of rows, pictures of two shapes, a processor's own media, and something that is no tensor."""
    shapes = [(1, 3, 4, 6), (2, 3, 4, 4)]
    pictures = Pictures([Picture(torch.rand(shape), f"plan {n}") for n, shape in enumerate(shapes)])
    return {"ids": torch.arange(6), "pixel_values": pictures, "media": {"grid": torch.ones(2)}, "pictures": [1]}


def tensors(batch: dict) -> list[torch.Tensor]:
    return [batch["ids"], *(views for views, _ in batch["pixel_values"]), batch["media"]["grid"]]


def test_every_tensor_for_a_gpu_is_pinned_and_copied_beside_other_work(monkeypatch):
    """What is asked of PyTorch, where there is no GPU to ask."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.as_subclass(Pinned))
    monkeypatch.setattr(Pinned, "copied", [])
    batch = gpu_batch()
    found = pinned(batch, torch.device("cuda"))
    assert all(isinstance(tensor, Pinned) for tensor in tensors(found))
    assert found["pictures"] is batch["pictures"] and not any(isinstance(tensor, Pinned) for tensor in tensors(batch))
    trainer = SimpleNamespace(args=SimpleNamespace(device="cuda:0"), is_deepspeed_enabled=False)
    for item in (found["ids"], found["pixel_values"], found["media"]["grid"]):
        moved = BlockDiffusionTrainer._prepare_input(trainer, item)
        assert type(moved) is type(item)
    assert Pinned.copied == [("cuda:0", True)] * len(tensors(batch))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory is a GPU's")
def test_a_gpus_batch_is_pinned_and_the_same():
    batch = gpu_batch()
    found = pinned(batch, torch.device("cuda"))
    assert found["pixel_values"].is_pinned() and all(tensor.is_pinned() for tensor in tensors(found))
    assert all(map(torch.equal, tensors(found), tensors(batch))) and found["pictures"] == [1]
    assert [picture.plan for picture in found["pixel_values"]] == ["plan 0", "plan 1"]
