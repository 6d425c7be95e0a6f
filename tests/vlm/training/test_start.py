"""What a run starts from: a recipe's traits prevail, and what cannot be is said before anything trains."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.vlm.tiny import BACKBONES, tiny_model, tiny_traits
from tests.vlm.training.small import small_recipe
from vlm.answering import settings
from vlm.checkpoints.load import load
from vlm.training import run as run_module
from vlm.training.recipe import AdapterRecipe, ModelRecipe, ObjectiveRecipe
from vlm.training.run import run
from vlm.training.start import check_buildable, under_traits

TEXT, VISION = {"model_type": "qwen3"}, {"kind": "timm", "model": "resnet18", "image_size": 64}
SHIFTED = tiny_traits(prediction_shift=1)


def save(directory: Path, **traits) -> Path:
    for part in tiny_model(dtype=torch.float32, **traits):
        part.save_pretrained(directory)
    return directory


def metrics(directory: Path) -> list[dict]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("tokens_per_second", "waiting", "seconds")} for line in lines]


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("start") / "start")


@pytest.fixture(scope="module")
def shifted(start, tmp_path_factory) -> Path:
    """A run of two steps from `start`, under a recipe that asks for shift 1."""
    directory = tmp_path_factory.mktemp("shifted")
    run(small_recipe(directory, start, model=ModelRecipe(diffusion=SHIFTED), max_steps=2))
    return directory


def test_a_run_trains_under_the_recipes_traits_whatever_the_starts(shifted, tmp_path):
    """As from the same weights saved with those traits."""
    run(small_recipe(tmp_path / "run", save(tmp_path / "start", prediction_shift=1), max_steps=2))
    assert metrics(shifted) == metrics(tmp_path / "run")
    traits = json.loads((shifted / "final" / "config.json").read_text())["diffusion"]
    assert traits["prediction_shift"] == 1 and set(traits["trained_block_sizes"]) == {1, 4, 8}


def test_traits_that_the_recipe_leaves_out_are_the_plain_ones_and_the_mask_token_stays(start):
    model, processor = load(str(start))
    model.generation_config.mode, model.generation_config.max_new_tokens = "ar", 33
    changed = under_traits(model, {"context_attention": "block_causal", "block_size": 4, "trained_block_sizes": [4]})
    traits = changed.config.traits
    assert (traits.context_attention, traits.ar_mode, traits.trained_block_sizes) == ("block_causal", False, (4,))
    assert traits.mask_token_id == processor.tokenizer.mask_token_id
    config = settings(changed, tokenizer=processor.tokenizer)  # refuses what the traits do not allow
    assert (config.mode, config.block_size, config.max_new_tokens) == ("block", 4, 33)
    assert config.eos_token_id == processor.tokenizer.eos_token_id
    assert processor.tokenizer.mask_token_id in config.suppress_tokens


@pytest.mark.parametrize("asked", [{}, tiny_traits(), {**tiny_traits(), "trained_block_sizes": [8, 4, 1]}])
def test_a_model_of_these_traits_already_keeps_its_settings(start, asked):
    model, _ = load(str(start))
    kept, before = model.generation_config, model.config.traits
    assert under_traits(model, asked) is model
    assert model.generation_config is kept and model.config.traits == before


def test_an_adapters_base_keeps_its_traits(start, tmp_path):
    recipe = small_recipe(tmp_path, start, model=ModelRecipe(diffusion=SHIFTED), adapter=AdapterRecipe(rank=2))
    with pytest.raises(ValueError, match="model.diffusion.prediction_shift is 1, but the adapter's base has 0"):
        run(recipe)


def test_a_checkpoint_under_other_traits_is_refused_on_resume(shifted, start, tmp_path):
    again = Path(shutil.copytree(shifted, tmp_path / "again"))
    with pytest.raises(ValueError, match="checkpoint-2: its model.diffusion.prediction_shift is 1, the recipe's 0"):
        run(small_recipe(again, start, model=ModelRecipe(diffusion=tiny_traits()), max_steps=3))


def test_a_checkpoint_of_another_shape_than_the_start_is_refused_on_resume(shifted, tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES, "qwen3", {**BACKBONES["qwen3"], "num_hidden_layers": 3})
    deeper, again = save(tmp_path / "deeper"), Path(shutil.copytree(shifted, tmp_path / "again"))
    with pytest.raises(ValueError) as caught:
        run(small_recipe(again, deeper, max_steps=3))
    said = str(caught.value)
    assert said.startswith(f"{again / 'checkpoint-2'}: language_model.model.layers.2.") and "\n" not in said
    assert f"has shape None, expected [32] as in {deeper}" in said
    run(small_recipe(again, tmp_path / "gone", max_steps=3))  # a start that is there no more is not needed
    assert [line["step"] for line in metrics(again)] == [1, 2, 3]


MISTAKES = {
    "model.text needs model_type": {"text": {}},
    "unknown model.text.model_type 'qwenn'; did you mean qwen": {"text": {"model_type": "qwenn"}},
    "unknown key 'hidden_sise' in model.text; did you mean hidden_size": {"text": {**TEXT, "hidden_sise": 64}},
    "unknown key 'modell' in a vision config": {"vision": {**VISION, "modell": "resnet18"}},
    "block_size 0 must be at least 1": {"diffusion": {"block_size": 0}},
    "ar_mode needs causal context": {"diffusion": {"ar_mode": True, "context_attention": "full"}},
    "objective.ar_weight 1.0 needs causal context": {"diffusion": {"context_attention": "block_causal"}},
    "block_sizes [4] are not among": {"diffusion": {"ar_mode": True}},
}


@pytest.mark.parametrize("says", MISTAKES)
def test_an_impossible_model_is_refused_before_a_tokenizer_is_trained(tmp_path, monkeypatch, says):
    def trained(*args):
        raise AssertionError("a tokenizer was trained")

    monkeypatch.setattr(run_module, "train_tokenizer", trained)
    model = ModelRecipe(**{"text": TEXT, "vision": VISION, "diffusion": tiny_traits(), **MISTAKES[says]})
    with pytest.raises(ValueError) as caught:
        run(small_recipe(tmp_path, model=model))
    assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 300
    with pytest.raises(AssertionError, match="a tokenizer was trained"):
        run(small_recipe(tmp_path, model=ModelRecipe(text=TEXT, vision=VISION, diffusion=tiny_traits())))


def test_spellings_that_transformers_reads_are_known():
    text = {**TEXT, "rope_theta": 10000.0, "max_position_embeddings": 64, "tie_word_embeddings": True}
    assert check_buildable(ModelRecipe(text=text, vision=VISION, diffusion=tiny_traits())).ar_mode


def test_a_negative_weight_of_the_next_token_loss_is_refused(start, tmp_path):
    with pytest.raises(ValueError, match="objective.ar_weight -1.0 must not be negative"):
        run(small_recipe(tmp_path, start, objective=ObjectiveRecipe(ar_weight=-1.0)))
