"""A whole autoregressive vision-language model of transformers becomes a block-diffusion checkpoint of ours.

Nothing is trained and no weight is changed: the composite becomes the decoder (`vlm.composite`), with its tower, its
projector or merger, its rotary positions, and its processor, whose directory is kept beside ours. Only a mask token is
chosen, as for language models (`vlm.checkpoints.vocabulary`).
"""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from vlm.checkpoints.chat_format import KNOWN
from vlm.checkpoints.files import CheckpointError, one_line, read_config
from vlm.checkpoints.foreign import ends_of, load_tokenizer, load_weights
from vlm.checkpoints.vocabulary import choose, grow, plain_tokenizer
from vlm.composite import COMPOSITES
from vlm.composite_processor import CompositeProcessor, original_processor
from vlm.config import DiffusionTraits, VLMConfig
from vlm.generation.config import BlockGenerationConfig
from vlm.model import VLMForBlockDiffusion

# Turns end with these too, where generation_config.json does not say so.
_ENDS = (*(turns.end for turns in KNOWN.values()), "<end_of_utterance>")


def refuse_composite(source: str, raw: dict) -> None:
    """CheckpointError if ``raw`` is the config of a whole vision-language model of a family that is not converted."""
    kind = raw["model_type"]
    unknown = kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and kind not in COMPOSITES
    if unknown and raw.get("vision_config") is not None:
        known = ", ".join(COMPOSITES)
        raise CheckpointError(f"{source}: {kind!r} is a whole vision-language model; converted are {known}")


def load_composite(
    source: str, chosen: dict[str, Any], make_traits: Callable[..., DiffusionTraits]
) -> tuple[VLMForBlockDiffusion, CompositeProcessor]:
    """The converted model, in the dtype of its files, and its processor.

    Args:
        source: a directory of a family in `vlm.composite.COMPOSITES`.
        chosen: traits that a person chose.
        make_traits: gives the `DiffusionTraits` of a mask token and chosen traits.

    Raises:
        CheckpointError: one line that names what is wrong.
    """
    raw, tokenizer = read_config(source), load_tokenizer(source)
    family = COMPOSITES[raw["model_type"]]
    try:
        original = original_processor(source)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{source}: no usable processor ({one_line(error)})") from error
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    composite = load_weights(source, config, "auto", classes=MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING)
    vocab = dict(tokenizer.get_vocab())
    mask = choose("mask", vocab, composite.get_input_embeddings().weight.shape[0], tokenizer)
    grow(composite, mask.id + 1)
    fresh = plain_tokenizer(tokenizer, {"mask": mask}, None)
    told = {"tokens": {"mask": f"{mask.token} ({mask.id}, {mask.how})"}, "turns": "the original's chat template"}
    conversion = {"source": Path(source).name, "family": raw["model_type"], "chosen": chosen, **told}
    traits = make_traits(mask.id, **family.traits, **chosen)
    model = assemble_composite(composite, traits, conversion, fresh, ends_told(source, raw, fresh))
    return model, CompositeProcessor(fresh, original, model.config)


def assemble_composite(
    composite: PreTrainedModel,
    traits: DiffusionTraits,
    conversion: dict[str, Any],
    tokenizer: PreTrainedTokenizerFast,
    ends: list[int],
) -> VLMForBlockDiffusion:
    """Our model around a composite that is there already.

    Args:
        conversion: where it came from and what was chosen; written into the config.
        tokenizer: with the mask.
        ends: tokens that end an answer.
    """
    config = config_around(deepcopy(composite.config), traits, conversion)
    model = VLMForBlockDiffusion(config, composite).eval()
    reserved = (traits.mask_token_id, config.image_token_id, config.video_token_id)
    model.generation_config = BlockGenerationConfig(
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        suppress_tokens=[token for token in reserved if token >= 0],
        block_size=traits.block_size,
    )
    return model


def config_around(own: PreTrainedConfig, traits: DiffusionTraits, conversion: dict[str, Any]) -> VLMConfig:
    """Our config of a model whose decoder is a whole one with the config ``own``."""
    return VLMConfig(
        composite_config=own,
        image_token_id=own.image_token_id,
        video_token_id=-1 if getattr(own, "video_token_id", None) is None else own.video_token_id,
        diffusion=traits,
        conversion=conversion,
    )


def ends_told(source: str, raw: dict, tokenizer, more: tuple[int, ...] = ()) -> list[int]:
    """Tokens that end an answer: as the directory names them, ends of turns that the tokenizer knows, and ``more``.

    Raises:
        CheckpointError: there is none.
    """
    vocab = tokenizer.get_vocab()
    found = {*(token for token in more if token < len(vocab))}
    found |= {*ends_of(source, raw), *ends_of(source, raw.get("text_config") or {})}
    found |= {vocab[token] for token in _ENDS if token in vocab}
    if not found:
        raise CheckpointError(f"{source}: neither generation_config.json nor the tokenizer says what ends an answer")
    return sorted(found)
