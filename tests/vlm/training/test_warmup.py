"""The warm-up of tower and projector: both learn, a stopped one goes on where it was, a finished one is loaded."""

import json
from dataclasses import replace

import pytest
import torch

from vision_encoders import VisionConfig, build_vision_encoder
from vlm.projector import Projector
from vlm.training.recipe import Recipe, TowerRecipe
from vlm.training.warmup import Heads, accuracy, loss, warm_up

VISION = VisionConfig(
    kind="timm", model="resnet18", image_size=48,
    options={"layers": [1, 1, 1, 1], "channels": [32, 32, 32, 64], "stem_width": 32, "output_stride": 8,
             "norm_layer": "groupnorm"},
)  # fmt: skip


def tower_and_projector(seed: int = 0):
    torch.manual_seed(seed)
    tower = build_vision_encoder(VISION)
    return tower, Projector(tower.hidden_size, 32, 64, tower.grid)


def same(one, two) -> bool:
    """Whether towers and projectors have the same weights."""
    pairs = [pair for a, b in zip(one, two) for pair in zip(a.parameters(), b.parameters(), strict=True)]
    return all(torch.equal(a, b) for a, b in pairs)


def recipe(directory, **changes) -> Recipe:
    settings = {"steps": 6, "batch_size": 4, "shares": {"scenes": 0.5, "glyphs": 0.5}, "max_side": 96}
    tower_recipe = TowerRecipe(**{**settings, **changes})
    base = Recipe(output_dir=str(directory), tower=tower_recipe, precision="fp32")
    return replace(base, data=replace(base.data, workers=0))


def test_colors_are_learned(tmp_path):
    found = warm_up(
        *tower_and_projector(), recipe(tmp_path, steps=120, batch_size=16, lr=5e-3, shares={"scenes": 1.0})
    )
    assert found["color"] > 0.5  # one in six by chance
    lines = [json.loads(line) for line in (tmp_path / "tower" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40, 60, 80, 100, 120]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["color"] > 0.5 and lines[-1]["projected_color"] > 0.5


def test_a_stopped_warm_up_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("vlm.training.warmup.SAVE_STEPS", 2)
    whole, stopped = tower_and_projector(), tower_and_projector()
    warm_up(*whole, recipe(tmp_path / "whole"))

    saves = []

    def stop_after_two_saves(*args):
        saves.append(args)
        if len(saves) == 3:
            raise KeyboardInterrupt
        save(*args)

    from vlm.training.warmup import _save as save

    monkeypatch.setattr("vlm.training.warmup._save", stop_after_two_saves)
    with pytest.raises(KeyboardInterrupt):
        warm_up(*stopped, recipe(tmp_path / "stopped"))
    monkeypatch.setattr("vlm.training.warmup._save", save)
    again = tower_and_projector(1)  # other weights: what matters is on disk
    assert not same(whole, again)
    warm_up(*again, recipe(tmp_path / "stopped"))
    assert same(whole, again)


def test_a_finished_warm_up_is_only_loaded(tmp_path, monkeypatch):
    first = tower_and_projector()
    warm_up(*first, recipe(tmp_path))
    monkeypatch.setattr("vlm.training.warmup.loss", None)  # would fail if called
    again = tower_and_projector(1)
    warm_up(*again, recipe(tmp_path))
    assert same(first, again)


def test_the_state_of_another_model_is_refused_by_name(tmp_path):
    warm_up(*tower_and_projector(), recipe(tmp_path))
    tower, _ = tower_and_projector()
    with pytest.raises(ValueError, match=r"state\.safetensors: the state of another model"):
        warm_up(tower, Projector(tower.hidden_size, 16, 64, tower.grid), recipe(tmp_path))


def test_the_loss_counts_slots_that_hold_something_and_ignores_untold_ones():
    heads = Heads(8)
    logits = heads(torch.randn(2, 9, 8))
    labels = {name: torch.full(guess.shape[:-1], -100) for name, guess in logits.items()}
    assert loss(logits, labels).item() == 0
    labels["color"][0, :3] = torch.tensor([[1], [0], [2]])
    guesses = logits["color"][0, :3, 0].log_softmax(-1)
    expected = -(guesses[0, 1] + guesses[1, 0] + guesses[2, 2]) / 2
    assert loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)
    assert set(accuracy(logits, labels)) == {"color"}


def test_a_page_of_one_letter_counts_as_much_as_one_of_many():
    heads = Heads(8)
    logits = heads(torch.randn(3, 4, 8))
    labels = {name: torch.full(guess.shape[:-1], -100) for name, guess in logits.items()}
    labels["glyph"][:2] = 0
    labels["glyph"][0, 0, 0] = 5
    labels["glyph"][1, :, :3] = 7
    one = -logits["glyph"].log_softmax(-1).gather(-1, labels["glyph"].clamp(min=0).unsqueeze(-1)).flatten(1).sum(-1)
    assert loss(logits, labels).item() == pytest.approx((one[0] + one[1] / 12).item() / 2, rel=1e-5)


@pytest.mark.parametrize("wrong, says", [({"shares": {"cats": 1.0}}, "cats"), ({"shares": {"glyphs": 0}}, "glyphs"),
                                         ({"steps": -1}, "steps"), ({"batch_size": 0}, "batch_size")])  # fmt: skip
def test_impossible_warm_ups_are_refused_by_name(wrong, says):
    with pytest.raises(ValueError, match=says):
        TowerRecipe(**wrong)
