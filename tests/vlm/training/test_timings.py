"""Seconds by stage: they add up to the time that passed, and a slow stage is the one that shows."""

import json
import time

import pytest

from data_pipelines import media
from tests.vlm.tiny import tiny_model
from tests.vlm.training.small import data_recipe, small_recipe
from tests.vlm.training.test_own_data import folder, llava, own, write  # noqa: F401
from vlm.training.timings import MAIN, WORKERS, Clock
from vlm.training.trainer import BlockDiffusionTrainer


def test_a_clock_adds_up_by_stage_and_starts_anew_after_a_report():
    clock = Clock()
    for _ in range(2):
        with clock("wait"):
            time.sleep(0.02)
    with pytest.raises(ValueError), clock("collate"):
        time.sleep(0.01)
        raise ValueError
    clock.add({"read": 1.5, "decode": 0.25})
    clock.add({"read": 0.5})
    found = clock.report(passed=1.0)
    assert list(found) == [*WORKERS, *MAIN, "step"]
    assert found["read"] == 2.0 and found["decode"] == 0.25 and found["encode"] == 0
    assert 0.04 <= found["wait"] < 0.5 and 0.01 <= found["collate"] < 0.5
    assert sum(found[stage] for stage in (*MAIN, "step")) == pytest.approx(1.0, abs=1e-3)
    assert clock.report(passed=2.0) == {**dict.fromkeys(found, 0.0), "step": 2.0}


def test_slow_decoding_shows_in_the_samples(folder, monkeypatch):  # noqa: F811
    load = media.load_image
    monkeypatch.setattr(media, "load_image", lambda source: time.sleep(0.03) or load(source))
    sample = own(folder, [write(folder, llava(1))]).sample(0)
    assert sample.seconds["decode"] >= 0.03 and set(sample.seconds) == set(WORKERS)


def test_a_run_that_is_starved_says_so(tmp_path, monkeypatch):
    """Samples that take 20 ms to draw: in metrics.jsonl the trainer waits for most of its time."""
    import torch

    from vlm.training.data import PlaygroundStream

    model, processor = tiny_model(dtype=torch.float32)
    sample = PlaygroundStream.sample
    monkeypatch.setattr(PlaygroundStream, "sample", lambda self, index: time.sleep(0.02) or sample(self, index))
    recipe = small_recipe(tmp_path, max_steps=2, save_steps=2, eval_steps=100, data=data_recipe(window=32))
    stream = PlaygroundStream(recipe.data, processor, model.config.traits, 0)
    trainer = BlockDiffusionTrainer(model, processor, stream, recipe)
    start = time.perf_counter()
    trainer.resume()
    passed = time.perf_counter() - start
    first, *others = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert first["seconds"]["wait"] >= 32 * 0.02 and first["waiting"] > 0.5
    assert first["waiting"] > max(line["waiting"] for line in others)  # the window lasts for more than a step
    total = sum(line["seconds"][stage] for line in (first, *others) for stage in (*MAIN, "step"))
    assert total <= passed and all(line["seconds"]["step"] > 0 for line in (first, *others))
    assert trainer.progress.bar.tasks[0].fields["said"].endswith("%")
