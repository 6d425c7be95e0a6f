"""What a run starts from, and what is refused before anything has been trained.

A tokenizer takes seconds and a vision tower's warm-up minutes, so all that a recipe gets wrong about its model is said
before either. A model to start from brings its weights; ``model.diffusion`` of the recipe, where it says anything, is
what it shall become: an autoregressive model gets the traits of the recipe that makes it a block-diffusion one.
"""

from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from vision_encoders import VisionConfig
from vision_encoders.config import nearest
from vlm.checkpoints.files import read_config, read_tensors
from vlm.config import TRAIT_NAMES, DiffusionTraits, VLMConfig
from vlm.generation.config import BlockGenerationConfig
from vlm.model import VLMForBlockDiffusion
from vlm.training.recipe import ModelRecipe, Recipe

# Traits that are the model's own and no recipe's choice.
_OWN_TRAITS = ("mask_token_id", "media_attention", "positions")
_ROPE = ("rope_theta", "rope_scaling", "rope_parameters")  # spellings that transformers still reads
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens", "max_new_tokens")


def check_legal(recipe: Recipe, traits: DiffusionTraits, sizes: set[int]) -> None:
    """ValueError for an objective or block sizes (of all stages) that a model with ``traits`` cannot be trained on."""
    ar_weight, context = recipe.objective.ar_weight, traits.context_attention
    if ar_weight > 0 and context != "causal":
        raise ValueError(
            f"objective.ar_weight {ar_weight} needs causal context: under {context!r} context clean rows see the "
            "tokens they would predict"
        )
    if ar_weight < 0:
        raise ValueError(f"objective.ar_weight {ar_weight} must not be negative")
    if traits.ar_mode and ar_weight == 0:
        raise ValueError(
            "ar_mode true needs objective.ar_weight above 0: the checkpoint would claim a mode it was not trained for"
        )
    untrained = sorted(sizes - set(traits.trained_block_sizes))
    if untrained:
        raise ValueError(
            f"data.block_sizes {untrained} are not among the model's trained_block_sizes "
            f"{sorted(traits.trained_block_sizes)}"
        )


def check_buildable(recipe: ModelRecipe) -> DiffusionTraits:
    """The traits of the model that ``recipe`` describes; ValueError for one that cannot be, naming the value."""
    if "model_type" not in recipe.text:
        raise ValueError("model.text needs model_type, the name of a transformers architecture")
    name = recipe.text["model_type"]
    if name not in CONFIG_MAPPING_NAMES:
        raise ValueError(f"unknown model.text.model_type {name!r}; {nearest(name, CONFIG_MAPPING_NAMES)}")
    default = AutoConfig.for_model(name)
    for key in recipe.text:  # transformers would keep it and not use it
        if not hasattr(default, key) and key not in _ROPE:
            raise ValueError(f"unknown key {key!r} in model.text; {nearest(key, default.to_dict())}")
    VisionConfig.from_dict(recipe.vision)
    return DiffusionTraits(**recipe.diffusion)


def under_traits(model: VLMForBlockDiffusion, asked: dict[str, Any]) -> VLMForBlockDiffusion:
    """``model`` told to be of the traits that a recipe asks for; changes it in place.

    Its generation settings are the plain ones again if the traits were others: its old mode or size may be illegal.

    Args:
        asked: ``model.diffusion`` of the recipe; what it leaves out has its default. Empty keeps the model's traits.
    """
    traits = traits_for(model.config.traits, asked)
    if _plain(traits) != _plain(model.config.traits):
        model.config.diffusion = {name: getattr(traits, name) for name in TRAIT_NAMES}
        tokens = {name: getattr(model.generation_config, name) for name in _TOKENS}
        model.generation_config = BlockGenerationConfig(**tokens, block_size=traits.block_size)
    return model


def check_base(model: VLMForBlockDiffusion, asked: dict[str, Any]) -> None:
    """ValueError if a recipe asks for other traits than those of the base of its adapter, which keeps them."""
    found, wanted = _plain(model.config.traits), _plain(traits_for(model.config.traits, asked))
    for name in TRAIT_NAMES:
        if found[name] != wanted[name]:
            raise ValueError(
                f"model.diffusion.{name} is {wanted[name]!r}, but the adapter's base has {found[name]!r} and keeps it"
            )


def traits_for(found: DiffusionTraits, asked: dict[str, Any]) -> DiffusionTraits:
    """The traits that a run gives a model with the traits ``found``: those ``asked``, and what is the model's own."""
    if not asked:
        return found
    own = {name: getattr(found, name) for name in _OWN_TRAITS}
    return DiffusionTraits(**{**asked, **own})


def check_same_start(checkpoint: Path, start: str, asked: dict[str, Any]) -> None:
    """ValueError if a run's checkpoint cannot have come from ``start`` under the recipe's traits, naming what differs.

    Args:
        start: directory of the model that the run starts from; one that is gone, or another project's, is not read.
        asked: ``model.diffusion`` of the recipe; empty asks for nothing.
    """
    if not (checkpoint / "config.json").is_file():
        return  # an adapter, refused with its own reason
    config = VLMConfig.from_pretrained(str(checkpoint))
    found, wanted = _plain(config.traits), _plain(DiffusionTraits(**asked) if asked else config.traits)
    for name in (name for name in TRAIT_NAMES if name not in _OWN_TRAITS and found[name] != wanted[name]):
        raise ValueError(f"{checkpoint}: its model.diffusion.{name} is {found[name]!r}, the recipe's {wanted[name]!r}")
    if not Path(start).is_dir() or read_config(start)["model_type"] != VLMConfig.model_type:
        return
    shapes, expected = ({n: list(t.shape) for n, t in read_tensors(str(d)).items()} for d in (checkpoint, start))
    for name in sorted(shapes.keys() | expected.keys()):
        found, wanted = shapes.get(name), expected.get(name)
        if found != wanted:
            raise ValueError(f"{checkpoint}: {name} has shape {found}, expected {wanted} as in {start}")


def _plain(traits: DiffusionTraits) -> dict[str, Any]:
    """Traits by name, lists as tuples, sizes in order."""
    found = {name: getattr(traits, name) for name in TRAIT_NAMES}
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return {**plain, "trained_block_sizes": tuple(sorted(traits.trained_block_sizes))}
