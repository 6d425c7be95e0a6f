"""An autoregressive model, or another project's block-diffusion model, becomes a checkpoint of ours.

Nothing is trained here. Under causal context the converted model's AR mode is the original model, logit for logit: a
place to start from, whose noisy rows have everything to learn. A vision encoder may be put before a language model,
with a new projector; a whole vision-language model keeps its own (`vlm.checkpoints.composite`). All that was chosen
stands in the config under ``conversion``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from vision_encoders import VisionEncoder
from vlm.checkpoints.composite import load_composite, refuse_composite
from vlm.checkpoints.families import FAMILIES
from vlm.checkpoints.files import UNUSABLE, CheckpointError, local_directory, one_line, read_config
from vlm.checkpoints.foreign import assemble, ends_of, load_foreign, load_weights, refuse_unknown
from vlm.checkpoints.vision import encoder_of
from vlm.checkpoints.vocabulary import grow, vocabulary
from vlm.checkpoints.whole import load_whole
from vlm.checkpoints.whole_families import WHOLE
from vlm.checkpoints.writing import new_directory, refuse_existing
from vlm.composite import COMPOSITES
from vlm.config import DiffusionTraits, VLMConfig
from vlm.model import VLMForBlockDiffusion
from vlm.processor import VLMProcessor

ATTENTION = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class Choices:
    """What a person may choose of a conversion; None takes the default.

    Attributes:
        block_size: 8, or a known family's own.
        context: ``causal`` keeps the original as the AR mode.
        shift: 0, or 1 if noisy rows shall predict the next token as the original's rows do.
        vision: ``KIND:NAME`` of an encoder, see `vlm.checkpoints.vision`.
        image_size: pixels a side that it sees.
        pretrained: fetch timm's weights for it.
        seed: of the new weights.
    """

    block_size: int | None = None
    context: str | None = None
    shift: int | None = None
    vision: str | None = None
    image_size: int | None = None
    pretrained: bool = False
    seed: int = 0

    @property
    def traits(self) -> dict[str, Any]:
        """Those of the choices that are traits, by the traits' names."""
        names = {"block_size": self.block_size, "context_attention": self.context, "prediction_shift": self.shift}
        return {name: value for name, value in names.items() if value is not None}


def convert(source: str, output: str, choices: Choices = Choices()) -> VLMConfig:
    """Write what ``source`` becomes to the new directory ``output``; returns its config.

    Args:
        source: a directory or a hub id.

    Raises:
        CheckpointError: the source cannot be converted, or the output exists.
        ValueError: a choice that no checkpoint could have.
    """
    refuse_existing(output)
    model, processor = converted(source, choices)
    with new_directory(output) as fresh:
        model.save_pretrained(fresh)
        processor.save_pretrained(fresh)
    return model.config


def converted(source: str, choices: Choices = Choices()) -> tuple[VLMForBlockDiffusion, VLMProcessor]:
    """The model that `convert` writes, in the dtype of the source's files, and its processor."""
    source = local_directory(source)
    kind = read_config(source)["model_type"]
    try:
        encoder = None
        if choices.vision is not None:
            torch.manual_seed(choices.seed)
            encoder = encoder_of(choices.vision, choices.image_size, choices.pretrained)
        if kind in FAMILIES:
            return load_foreign(source, "auto", choices.traits, encoder)
        if kind in WHOLE and encoder is None:
            return load_whole(source, "auto", choices.traits)
        if kind in COMPOSITES and encoder is None:
            return load_composite(source, choices.traits, autoregressive_traits)
        if kind == VLMConfig.model_type:
            raise CheckpointError(f"{source}: is a {kind} checkpoint already")
        return _from_autoregressive(source, choices, encoder)
    except CheckpointError:
        raise
    except UNUSABLE as error:
        raise CheckpointError(f"{source}: cannot be converted ({one_line(error)})") from error


def _from_autoregressive(
    source: str, choices: Choices, encoder: VisionEncoder | None
) -> tuple[VLMForBlockDiffusion, VLMProcessor]:
    config = _text_config(source)
    tokenizer = AutoTokenizer.from_pretrained(source, config=config, trust_remote_code=False)
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise CheckpointError(f"{source}: no tokenizer.json")
    language_model = load_weights(source, config, "auto")
    rows = language_model.get_input_embeddings().weight.shape[0]
    words = vocabulary(tokenizer, rows, ends_of(source, read_config(source)))
    grow(language_model, words.rows)
    traits = autoregressive_traits(words.mask.id, **choices.traits)
    conversion = {"source": Path(source).name, "family": config.model_type, "chosen": choices.traits}
    return assemble(language_model, words, traits, conversion, encoder)


def autoregressive_traits(mask_token_id: int, block_size: int = 8, **chosen: Any) -> DiffusionTraits:
    """Traits of a model whose clean rows are an AR model's and whose noisy rows nobody has trained yet."""
    context = chosen.get("context_attention", "causal")
    sizes = {"block_size": block_size, "trained_block_sizes": (block_size,)}
    return DiffusionTraits(mask_token_id=mask_token_id, ar_mode=context == "causal", **sizes, **chosen)


def _text_config(source: str) -> PreTrainedConfig:
    """The config of a stock language model made of attention layers alone.

    Raises:
        CheckpointError: it is anything else.
    """
    raw = read_config(source)
    refuse_composite(source, raw)
    if raw["model_type"] in WHOLE:
        raise CheckpointError(f"{source}: {raw['model_type']!r} sees pictures itself: --vision is for language models")
    if raw["model_type"] not in {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *COMPOSITES}:
        refuse_unknown(source)
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    if getattr(config, "vision_config", None) is not None:
        raise CheckpointError(f"{source}: {config.model_type!r} sees pictures itself: --vision is for language models")
    odd = sorted(set(getattr(config, "layer_types", None) or []) - set(ATTENTION))
    if odd:
        raise CheckpointError(f"{source}: block diffusion needs attention, it has layers of type {odd[0]!r}")
    return config
