"""Recipes: those we ship are what they say and take a step, impossible ones are refused by name, and a run checks what
it combines."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data_pipelines.playground import FAMILIES
from tests.vlm.tiny import tiny_model
from tests.vlm.training.small import data_recipe, small_recipe
from train import main
from vlm import DiffusionTraits
from vlm.noise import BetaCurriculum
from vlm.training.build import build_model, build_processor, train_tokenizer
from vlm.training.curricula import Phase
from vlm.training.recipe import DataRecipe, ModelRecipe, ObjectiveRecipe, Recipe
from vlm.training.run import run

DEMO = Path(__file__).parents[3] / "configs" / "demo.yaml"
PUBLISHED = ("sdar_vl", "diffusionvl", "nbdiff", "fast_dvlm", "sdar", "llada_v")
TINY_TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
TINY_VISION = {"kind": "timm", "model": "vit_tiny_patch16_224", "image_size": 32,
               "options": {"embed_dim": 16, "depth": 1, "num_heads": 2}}  # fmt: skip


@pytest.fixture
def demo(monkeypatch) -> Recipe:
    """The shipped recipe, as `train.py` hands it on."""
    handed = []
    monkeypatch.setattr("train.run", handed.append)
    assert main(["--config", str(DEMO)]) == 0
    return handed[0]


def test_the_demo_recipe_is_typed_and_agrees_with_itself(demo):
    assert isinstance(demo, Recipe) and isinstance(demo.noise.schedule, BetaCurriculum)
    assert all(isinstance(phase, Phase) for phase in demo.data.phases)
    assert all(isinstance(size, int) for size in demo.data.block_sizes)
    traits = DiffusionTraits(**{**demo.model.diffusion})
    assert traits.ar_mode and traits.context_attention == "causal" and demo.objective.ar_weight > 0
    assert set(demo.data.block_sizes) == set(traits.trained_block_sizes)
    assert demo.optim.warmup_steps + demo.optim.decay_steps <= demo.max_steps
    assert demo.optim.vision_start <= demo.max_steps


def test_the_demo_mixture_reaches_every_kind_of_question(demo):
    used = {name for phase in demo.data.phases for name in phase.weights}
    together = {"attributes", "counting", "relations", "describe", "json"}  # what a scene_chat asks
    assert used | (together if "scene_chat" in used else set()) == set(FAMILIES)


def test_weights_follow_the_seed_and_ids_the_tokenizer(demo):
    tokenizer = train_tokenizer(["How many circles? 12"], 300)
    text = {**demo.model.text, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    recipe = replace(demo.model, text=text)
    one, same, other = (build_model(recipe, tokenizer, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters()))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))
    assert one.config.traits.mask_token_id == tokenizer.mask_token_id
    assert one.config.image_token_id == tokenizer.convert_tokens_to_ids("<|image|>")
    assert one.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.mask_token_id in one.generation_config.suppress_tokens


@pytest.mark.parametrize("name", ["max_steps", "save_steps", "log_steps", "accumulation", "eval_steps"])
def test_counts_start_at_one(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        Recipe(**{name: 0})


def test_unknown_families_to_spell_are_refused():
    with pytest.raises(ValueError, match="data.spelled: unknown playground family 'redding'; did you mean reading"):
        DataRecipe(spelled=["redding"])


def test_unknown_traits_are_refused():
    with pytest.raises(ValueError, match="'block_sise' in model.diffusion; did you mean block_size"):
        ModelRecipe(diffusion={"block_sise": 8})


def saved(directory: Path, **traits) -> Path:
    model, processor = tiny_model(dtype=torch.float32, **traits)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def test_the_ar_loss_is_refused_where_clean_rows_see_the_future(tmp_path):
    start = saved(tmp_path / "start", context_attention="block_causal")
    with pytest.raises(ValueError, match="ar_weight 1.0 needs causal context.*'block_causal'"):
        run(small_recipe(tmp_path / "run", start))
    recipe = small_recipe(tmp_path / "run", start, objective=ObjectiveRecipe(ar_weight=0.0), max_steps=1)
    run(recipe)
    assert (tmp_path / "run" / "final" / "model.safetensors").exists()


def test_block_sizes_must_be_the_models(tmp_path):
    start = saved(tmp_path / "start")
    recipe = small_recipe(tmp_path / "run", start, data=data_recipe(block_sizes={4: 0.5, 6: 0.5}))
    with pytest.raises(ValueError, match=r"block_sizes \[6\] are not among .* \[1, 4, 8\]"):
        run(recipe)


def test_a_missing_start_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such model directory"):
        run(small_recipe(tmp_path / "run", tmp_path / "nowhere"))


# The published recipes ---------------------------------------------------------------------------------------------


@pytest.fixture
def read(monkeypatch):
    """A recipe's file, as `train.py` hands it on."""

    def read(path: Path) -> Recipe:
        handed = []
        monkeypatch.setattr("train.run", handed.append)
        assert main(["--config", str(path)]) == 0
        return handed[0]

    return read


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_printed_recipe_is_the_recipe(name, read, tmp_path, capsys):
    recipe = read(DEMO.with_name(f"{name}.yaml"))
    with pytest.raises(SystemExit) as stopped:
        main(["--config", str(DEMO.with_name(f"{name}.yaml")), "--print_config"])
    assert stopped.value.code == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert read(printed) == recipe


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_says_where_it_comes_from(name):
    header = DEMO.with_name(f"{name}.yaml").read_text().partition("\noutput_dir:")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    for part in ("# Source: arXiv ", "# Reproduced: ", "# The published code differs: ", "# Expected memory: "):
        assert part in header


@pytest.mark.parametrize("path", sorted(set(DEMO.parent.glob("*.yaml")) - {DEMO}), ids=lambda path: path.stem)
def test_every_recipe_but_our_own_names_its_source_and_its_memory(path):
    header = path.read_text().partition("\noutput_dir:")[0]
    assert "\n# Source: " in header and "emory: " in header and f"train.py --config configs/{path.name}" in header


def tiny(recipe: Recipe, directory: Path) -> Recipe:
    """The recipe on a tiny model of its own architecture: one step of every stage, of the first two."""
    text = {**recipe.model.text, **TINY_TEXT, "num_key_value_heads": 2}
    text |= {"head_dim": 8} if "head_dim" in text else {}
    tokenizer = train_tokenizer(["How many circles? 12"], 300)
    model = build_model(replace(recipe.model, text=text, vision=TINY_VISION), tokenizer, 0)
    model.save_pretrained(directory / "start")
    build_processor(model, tokenizer).save_pretrained(directory / "start")
    few = {"phases": data_recipe().phases, "rows_per_batch": 900, "window": 4, "workers": 0}
    stages = [replace(s, steps=1, phases=[]) for s in recipe.stages[:2]]
    return replace(
        recipe,
        data=replace(recipe.data, **few),
        stages=stages,
        max_steps=max(len(stages), 1),
        accumulation=1,
        eval_steps=1,
        save_steps=1,
        precision="fp32",
        optim=replace(recipe.optim, warmup_steps=0, decay_steps=0),
        init_from=str(directory / "start"),
        output_dir=str(directory / "run"),
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_takes_a_step(name, read, tmp_path, monkeypatch):
    monkeypatch.setattr("vlm.training.heldout.SAMPLES", 2)
    recipe = tiny(read(DEMO.with_name(f"{name}.yaml")), tmp_path)
    run(recipe)
    for stage in recipe.in_stages():
        asked = (Path(stage.output_dir) / "samples.jsonl").read_text().splitlines()
        assert len(asked) == 2
        (line,) = (Path(stage.output_dir) / "metrics.jsonl").read_text().splitlines()
        assert np.isfinite([json.loads(line)[key] for key in ("loss", "nelbo", "grad_norm")]).all()
        before, after = (
            load_file(Path(d) / "model.safetensors") for d in (stage.init_from, f"{stage.output_dir}/final")
        )
        moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
        assert moved == {"vision_tower", "projector", "language_model"} - set(stage.optim.frozen)


def test_a_later_stages_block_size_is_refused_before_the_first_trains(read, tmp_path):
    recipe = tiny(read(DEMO.with_name("sdar.yaml")), tmp_path)
    with pytest.raises(ValueError, match=r"block_sizes \[6\] are not among .* \[4, 16\]"):
        run(replace(recipe, stages=[recipe.stages[0], replace(recipe.stages[1], block_sizes={6: 1.0})]))
    assert not (tmp_path / "run" / "stage-1" / "final").exists()
