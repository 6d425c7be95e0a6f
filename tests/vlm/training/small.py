"""A small recipe, model and stream for the training tests: everything on them takes milliseconds."""

from functools import cache
from pathlib import Path

import torch

from tests.vlm.tiny import tiny_model
from vlm.noise import BetaCurriculum
from vlm.training.curricula import Phase
from vlm.training.data import PlaygroundStream
from vlm.training.recipe import DataRecipe, NoiseRecipe, ObjectiveRecipe, OptimRecipe, Recipe

MIXED = {"counting": 0.4, "multi_image": 0.3, "video": 0.3}


def data_recipe(**changes) -> DataRecipe:
    """Two phases, one to three turns, two block sizes, pictures of at most 96 pixels."""
    phases = [Phase(6, {"attributes": 1.0}, 96, (1, 3)), Phase(1, MIXED, 96, (1, 3))]
    settings = {"phases": phases, "block_sizes": {4: 0.5, 8: 0.5}, "rows_per_batch": 900}
    return DataRecipe(**{**settings, "window": 8, "workers": 0, **changes})


@cache
def pair(**traits):
    """A tiny float64 model and its processor; do not change its weights."""
    return tiny_model(**traits)


def save_start(directory: Path, **changes) -> Path:
    """A random tiny model to start from, with dropout, so that resuming has random state to restore."""
    model, processor = tiny_model(**{"dtype": torch.float32, **changes})
    model.config.text_config.attention_dropout = 0.1
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def stream(seed: int = 0, recipe: DataRecipe | None = None, **traits) -> PlaygroundStream:
    model, processor = pair(**traits)
    return PlaygroundStream(recipe or data_recipe(), processor, model.config.traits, seed)


def small_recipe(output_dir: Path, init_from: Path | None = None, **changes) -> Recipe:
    """A run of eight steps over `data_recipe`'s stream."""
    settings = {
        "data": data_recipe(),
        "noise": NoiseRecipe(schedule=BetaCurriculum()),
        "objective": ObjectiveRecipe(),
        "optim": OptimRecipe(name="muon", lr=3e-3, muon_lr=0.02, warmup_steps=2, decay_steps=3),
        "max_steps": 8,
        "save_steps": 3,
        "log_steps": 1,
        "precision": "fp32",
    }
    return Recipe(output_dir=str(output_dir), init_from=init_from and str(init_from), **{**settings, **changes})
