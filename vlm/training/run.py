"""One training run from a recipe: build or load the model, make the stream, train, save the result."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig
from transformers.utils import logging

from vision_encoders import VisionConfig
from vlm import DiffusionTraits, VLMForBlockDiffusion, VLMProcessor
from vlm.checkpoints.load import EMBEDDED, load
from vlm.config import VLMConfig
from vlm.training.adapters import attach
from vlm.training.build import build_model, build_processor, train_tokenizer
from vlm.training.data import PlaygroundStream, tokenizer_texts
from vlm.training.own_data import OwnStream, list_skipped, own_texts
from vlm.training.recipe import ModelRecipe, Recipe
from vlm.training.saving import each_once, written_whole
from vlm.training.start import check_base, check_buildable, check_legal, check_same_start, under_traits
from vlm.training.trainer import BlockDiffusionTrainer, checkpoints
from vlm.training.warmup import warm_up


def run(recipe: Recipe) -> None:
    """Train ``recipe``; continues from its newest checkpoint. Its model or adapter ends in ``output_dir/final``.

    Earlier stages of a recipe that has some stand in ``output_dir/stage-<n>``.

    Raises:
        ValueError: for a recipe that cannot be trained, naming the value.
    """
    stages = recipe.in_stages()
    begun = [number for number, stage in enumerate(stages) if checkpoints(Path(stage.output_dir))]
    sizes = {size for stage in stages for size in stage.data.sizes}
    for stage in stages[max(begun, default=0) :]:  # a stage begins when the one before it has been saved
        _run_stage(stage, sizes)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _run_stage(recipe: Recipe, sizes: set[int]) -> None:
    """Train one stage; ``sizes`` are the block sizes of all, so that a later one's are refused before the first."""
    logging.disable_progress_bar()  # ours is the only one
    torch.manual_seed(recipe.seed)
    Path(recipe.output_dir).mkdir(parents=True, exist_ok=True)
    if _source(recipe) is None:
        check_legal(recipe, check_buildable(recipe.model), sizes)
    model, processor = _model(recipe)
    traits = model.config.traits
    check_legal(recipe, traits, sizes)
    if model.vision_tower is None and model.config.composite_config is None and not recipe.data.sources:
        raise ValueError(f"{recipe.init_from}: this model reads text only; data.sources must name texts to train on")
    if model.config.composite_config is not None and (recipe.optim.vision_lr or recipe.optim.projector_lr):
        raise ValueError(
            "optim.vision_lr, optim.projector_lr: this model's tower learns as its decoder does, or not at all"
        )
    skipped = Path(recipe.output_dir) / "skipped.jsonl"
    stream = PlaygroundStream(recipe.data, processor, traits, recipe.seed)
    if recipe.data.sources:
        longest = getattr(model.config.text_config, "max_position_embeddings", None)
        stream = OwnStream(recipe.data, processor, traits, recipe.seed, longest, skipped)
    trainer = BlockDiffusionTrainer(model, processor, stream, recipe)
    if recipe.data.heldout:
        trainer.heldout  # noqa: B018  what is wrong with it is said before the first step
    try:
        trainer.resume()
    finally:
        if trainer.is_world_process_zero():
            list_skipped(skipped)
    _save_final(trainer, recipe)


def _save_final(trainer: BlockDiffusionTrainer, recipe: Recipe) -> None:
    whole = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.sharded else None  # gathered by all
    if trainer.is_world_process_zero():
        with written_whole(Path(recipe.output_dir) / "final") as written:
            trainer.model.save_pretrained(written, state_dict=each_once(trainer.model, whole))
            if recipe.adapter is None:  # an adapter uses its base's
                trainer.processor.save_pretrained(written)
    trainer.accelerator.wait_for_everyone()  # the next stage begins with what was saved


def _model(recipe: Recipe) -> tuple[VLMForBlockDiffusion | PeftModel, VLMProcessor]:
    """The newest checkpoint's model, ``init_from``'s, or a new one; with an adapter, always ``init_from``'s."""
    source, newest = _source(recipe), _newest(recipe)
    if recipe.adapter is not None:
        model, processor = _loaded(source)
        check_base(model, recipe.model.diffusion)
        return attach(model, processor.tokenizer, recipe.adapter, newest), processor
    if newest is not None and recipe.init_from is None:
        _check_same_model(newest, recipe.model)
    elif newest is not None:
        check_same_start(newest, _directory(recipe.init_from), recipe.model.diffusion)
    if source is not None:
        model, processor = _loaded(source)
        return under_traits(model, recipe.model.diffusion), processor
    texts = own_texts if recipe.data.sources else tokenizer_texts
    tokenizer = train_tokenizer(texts(recipe.data, recipe.seed), recipe.model.vocab_size)
    model = build_model(recipe.model, tokenizer, recipe.seed)
    if recipe.tower.steps:
        warm_up(model.vision_tower, model.projector, recipe)
    return model, build_processor(model, tokenizer)


def _newest(recipe: Recipe) -> Path | None:
    """The newest checkpoint of the run, None before there is one."""
    return next(reversed(checkpoints(Path(recipe.output_dir))), None)


def _source(recipe: Recipe) -> str | None:
    """What is loaded: with an adapter its base, else the run's newest checkpoint, else the start; None builds one."""
    if recipe.adapter is not None:
        return recipe.init_from or "embedded"
    newest = _newest(recipe)
    return recipe.init_from if newest is None else str(newest)


def _directory(source: str) -> str:
    return str(EMBEDDED) if source == "embedded" else source


def _check_same_model(checkpoint: Path, recipe: ModelRecipe) -> None:
    """ValueError if a checkpoint's model is not the one that the recipe builds, naming the first difference."""
    if not (checkpoint / "config.json").exists():
        return  # an adapter, refused with its own reason
    config = VLMConfig.from_pretrained(str(checkpoint))
    pairs: list[tuple[str, Any, Any]] = [
        (name, getattr(config, name), getattr(recipe, name)) for name in ("projector_hidden_size", "frame_pool")
    ]
    for section, theirs, build in (
        ("text", config.text_config, AutoConfig.for_model),
        ("vision", VisionConfig.from_dict(config.vision_config) if config.vision_config else None, VisionConfig),
        ("diffusion", config.traits, DiffusionTraits),
    ):
        asked = getattr(recipe, section)
        if asked and theirs is None:
            raise ValueError(f"{checkpoint}: its model reads text only, the recipe's has model.{section}")
        ours = build(**asked) if asked else theirs  # as each class reads them: defaults and other spellings filled in
        pairs += [(f"{section}.{name}", getattr(theirs, name), getattr(ours, name)) for name in asked]
    for name, theirs, ours in pairs:
        if (
            json.dumps(theirs, sort_keys=True) != json.dumps(ours, sort_keys=True)
            and name != "diffusion.mask_token_id"
        ):
            raise ValueError(f"{checkpoint}: its model.{name} is {theirs!r}, the recipe's {ours!r}")


def _loaded(source: str) -> tuple[VLMForBlockDiffusion, VLMProcessor]:
    path = Path(_directory(source))
    if not path.is_dir():
        raise ValueError(f"{source}: no such model directory")
    if (path / "adapter_config.json").exists():  # transformers would look for its base and go on
        raise ValueError(f"{source}: an adapter, not a model; python -m vlm.merge_adapter makes one of it")
    return load(str(path), dtype=torch.float32, device="cpu")
