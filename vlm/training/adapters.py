"""LoRA and QLoRA: a frozen model with small trainable factors beside its decoder's linear layers, by PEFT.

What is saved is a plain PEFT directory, trained projector and tokens included: `vlm.checkpoints.load` takes it as an
adapter, `vlm.merge_adapter` makes a checkpoint of it. The vision tower never trains. QLoRA is the same over a
decoder that `vlm.checkpoints.quantize` has rounded to nf4, so training multiplies by what inference in nf4 multiplies
by; on a CPU it computes in float32, on CUDA in bfloat16.
"""

import re
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import nn

from vlm.checkpoints.quantize import quantize
from vlm.model import VLMForBlockDiffusion
from vlm.training.recipe import AdapterRecipe

# What has to be equal for a checkpoint's adapter to be this run's.
_IDENTITY = (
    "base_model_name_or_path",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "modules_to_save",
    "trainable_token_indices",
)


def attach(model: VLMForBlockDiffusion, tokenizer, recipe: AdapterRecipe, checkpoint: Path | None = None) -> PeftModel:
    """``model`` with an adapter, everything else frozen; changes ``model`` in place.

    Args:
        model: the base, float32.
        tokenizer: turns ``recipe.train_tokens`` into ids; None will do if there are none.
        recipe: what the adapter is.
        checkpoint: directory that holds the adapter's weights; None starts at the base, that is with factors whose
            product is zero.

    Raises:
        ValueError: for targets or tokens that the model lacks, a decoder that cannot be quantised, or a checkpoint of
            another adapter; one line that names the value.
    """
    config = _config(model, tokenizer, recipe)
    if checkpoint is not None:
        _check_same(config, checkpoint)
    if recipe.quantize is not None:
        quantize(model.to("cuda" if torch.cuda.is_available() else "cpu"), recipe.quantize)
        model.is_loaded_in_4bit = True  # by this peft tells that the layers are bitsandbytes'
    if checkpoint is None:
        return get_peft_model(model, config)
    try:
        return PeftModel.from_pretrained(model, str(checkpoint), is_trainable=True)
    except (RuntimeError, KeyError, SafetensorError) as error:
        raise ValueError(f"{checkpoint}: its adapter is damaged, or of another model") from error


def _config(model: VLMForBlockDiffusion, tokenizer, recipe: AdapterRecipe) -> LoraConfig:
    _check_targets(model, recipe.targets)
    return LoraConfig(
        base_model_name_or_path=model.name_or_path,
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=recipe.targets,
        modules_to_save=["projector"] if recipe.train_projector else None,
        trainable_token_indices=_token_ids(tokenizer, recipe.train_tokens) or None,
    )


def _check_targets(model: nn.Module, targets: str) -> None:
    """Every module that ``targets`` matches is a linear layer, and there is one; peft's own words fill a screen."""
    try:
        pattern = re.compile(targets)
    except re.error as error:
        raise ValueError(f"adapter.targets {targets!r} is not a regular expression ({error})") from error
    matched = {name: module for name, module in model.named_modules() if pattern.fullmatch(name)}
    if not matched:
        raise ValueError(f"adapter.targets {targets!r} matches no layer of the model")
    for name, module in matched.items():
        if not isinstance(module, nn.Linear):
            raise ValueError(f"adapter.targets {targets!r} matches {name or 'the model'}, which is no linear layer")


def _token_ids(tokenizer, tokens: list[str]) -> list[int]:
    vocabulary = tokenizer.get_vocab() if tokens else {}
    for token in tokens:
        if token not in vocabulary:
            raise ValueError(f"adapter.train_tokens {token!r} is not a token of the model")
    return [vocabulary[token] for token in tokens]


def _check_same(config: LoraConfig, checkpoint: Path) -> None:
    if not (checkpoint / "adapter_config.json").is_file():
        raise ValueError(f"{checkpoint}: holds a whole model, but the recipe trains an adapter")
    saved = LoraConfig.from_pretrained(str(checkpoint))
    for name in _IDENTITY:
        theirs, ours = getattr(saved, name), getattr(config, name)
        if theirs != ours:
            raise ValueError(f"{checkpoint}: its adapter has {name} {theirs!r}, the recipe's has {ours!r}")
