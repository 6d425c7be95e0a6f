"""Whole block-diffusion vision-language models of other projects become our classes in memory.

The composite is the transformers class of the family's backbone, with the config translated and the tensors renamed
(`vlm.checkpoints.whole_families`); its processor is put together from the backbone's classes and the directory's own
settings and chat template, or from what LLaVA's code has in their place (`vlm.checkpoints.llava`). No code that a
checkpoint brings is ever run.
"""

import logging
from copy import deepcopy
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerFast, ProcessorMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from vlm.checkpoints.composite import assemble_composite, ends_told
from vlm.checkpoints.files import CheckpointError, one_line, read_config, read_json
from vlm.checkpoints.foreign import BOOKKEEPING, load_tokenizer, load_weights, refuse_values
from vlm.checkpoints.llava import as_onevision, llava_processor, placeholders
from vlm.checkpoints.vocabulary import NAMES, Special, grow, plain_tokenizer, registered
from vlm.checkpoints.whole_families import WHOLE, WholeFamily
from vlm.composite_processor import CompositeProcessor
from vlm.config import DiffusionTraits
from vlm.model import VLMForBlockDiffusion

NONE = -1  # a token id that no token has
ROTARY = ("rope_theta", "rope_scaling")  # old names of what transformers calls rope_parameters
_log = logging.getLogger(__name__)


def load_whole(
    source: str, dtype: torch.dtype | str, given: dict[str, Any] | None = None
) -> tuple[VLMForBlockDiffusion, CompositeProcessor]:
    """A model of a family in `whole_families.WHOLE` and its processor.

    Args:
        source: a directory.
        dtype: ``auto`` keeps that of the files.
        given: traits that a person chose, in place of the checkpoint's or the family's.

    Raises:
        CheckpointError: one line that names what is wrong.
    """
    raw, tokenizer = read_config(source), load_tokenizer(source)
    family = WHOLE[raw["model_type"]]
    config = whole_config(source, raw, family)
    traits, origins = whole_traits(raw, family, tokenizer, given or {})
    _warn(source, family, traits, origins)
    tokens, fresh, original = prepared(source, config, tokenizer, traits.mask_token_id, family)
    composite = load_weights(source, config, dtype, family.names, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING)
    grow(composite, 1 + max(token.id for token in tokens.values()))
    conversion = {
        "source": Path(source).name,
        "family": raw["model_type"],
        "traits_from": origins,
        "tokens": {role: f"{token.token} ({token.id}, {token.how})" for role, token in tokens.items()},
        "turns": "the original's chat template" if family.llava is None else "those of the code that trained it",
    }
    ends = ends_told(source, raw, fresh, family.ends)
    model = assemble_composite(composite, traits, conversion, fresh, ends)
    known = fresh.get_vocab()
    model.generation_config.suppress_tokens += [known[token] for token in family.silent if token in known]
    return model, CompositeProcessor(fresh, original, model.config)


def _warn(source: str, family: WholeFamily, traits: DiffusionTraits, origins: dict[str, str]) -> None:
    """Say what was assumed."""
    for name in ("block_size", "mask_token_id"):
        if origins[name] == "the family's default":
            _log.warning("%s: %s is %s, from %s", source, name, getattr(traits, name), origins[name])
    if family.note:
        _log.warning("%s: %s", source, family.note)


def prepared(
    source: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, mask: int, family: WholeFamily
) -> tuple[dict[str, Special], PreTrainedTokenizerFast, ProcessorMixin]:
    """Special tokens by role, the tokenizer with them, and the processor that the model was trained with.

    Raises:
        CheckpointError: there is no usable processor.
        ValueError: the table has no row for the mask.
    """
    tokens = {"mask": registered(tokenizer, mask, config.get_text_config().vocab_size)}
    if family.llava is None:
        return tokens, plain_tokenizer(tokenizer, tokens, None), processor_there(source, family)
    tokens |= placeholders(tokenizer, tokens["mask"], config)
    fresh = plain_tokenizer(tokenizer, tokens, None)
    return tokens, fresh, llava_processor(source, config, deepcopy(fresh), family.llava)


def whole_config(source: str, raw: dict, family: WholeFamily) -> PreTrainedConfig:
    """The backbone's config that a family's config translates to.

    Raises:
        CheckpointError: it has no vision_config, or a field has a value that the backbone cannot compute.
    """
    refuse_values(source, raw, family.needs)
    if family.llava is not None:
        raw = as_onevision(source, raw, family.llava)
    if not isinstance(raw.get("vision_config"), dict):
        raise CheckpointError(f"{source}: config.json has no vision_config")
    text = raw["text_config"] if isinstance(raw.get("text_config"), dict) else raw
    fields = {**_known(raw, family.backbone), **({"video_token_id": NONE} if takes_no_videos(raw) else {})}
    if "tie_word_embeddings" not in fields and "tie_word_embeddings" in text:
        fields["tie_word_embeddings"] = text["tie_word_embeddings"]
    return AutoConfig.for_model(
        family.backbone,
        **fields,
        text_config={**_known(text, family.text, *ROTARY), "model_type": family.text},
        vision_config={**_known(raw["vision_config"], family.vision), "model_type": family.vision},
    )


def takes_no_videos(raw: dict) -> bool:
    return "video_token_id" in raw and raw["video_token_id"] is None


def _known(raw: dict, kind: str, *more: str) -> dict:
    """What of ``raw`` a config of this ``model_type`` has too; the rest is the other project's bookkeeping."""
    known = {*AutoConfig.for_model(kind).to_dict(), *more}
    known -= {"model_type", "text_config", "vision_config", *BOOKKEEPING}
    return {name: value for name, value in raw.items() if name in known and value is not None}


def whole_traits(
    raw: dict, family: WholeFamily, tokenizer: PreTrainedTokenizerFast, given: dict[str, Any]
) -> tuple[DiffusionTraits, dict[str, str]]:
    """The traits of a checkpoint, and where each of them was found.

    Raises:
        ValueError: the traits contradict each other.
    """
    values, origins = dict(family.traits), {name: "the family's default" for name in family.traits}

    def say(name: str, value, where: str) -> None:
        values[name], origins[name] = value, where

    mask = next((t for t in (tokenizer.mask_token, *NAMES["mask"]) if t in tokenizer.get_vocab()), None)
    if mask is not None:
        say("mask_token_id", tokenizer.convert_tokens_to_ids(mask), "the tokenizer")
    for name, path in family.told.items():
        value = _at(raw, path)
        if value is not None:
            say(name, value, "config.json")
    for name, value in given.items():
        say(name, value, "given")
    smaller = () if "block_size" in given else family.sizes
    values["trained_block_sizes"] = (*(s for s in smaller if s < values["block_size"]), values["block_size"])
    values["ar_mode"] = family.traits.get("ar_mode", False) and values["context_attention"] == "causal"
    return DiffusionTraits(**values), origins


def _at(raw: dict, path: tuple[str, ...]):
    """The field at the end of ``path``; None if there is none."""
    for name in path:
        raw = raw.get(name) if isinstance(raw, dict) else None
    return raw


def processor_there(source: str, family: WholeFamily) -> ProcessorMixin:
    """The backbone's processor with the directory's settings and chat template.

    Raises:
        CheckpointError: they are not there, or not usable.
    """
    tokenizer = load_tokenizer(source)
    template = _template(source) or tokenizer.chat_template
    if not isinstance(template, str):
        raise CheckpointError(f"{source}: no chat template")
    for written, placeholder in family.placeholders.items():
        template = template.replace(written, placeholder)
    processor, image, video = (getattr(transformers, name) for name in family.processor)
    fields = read_json(Path(source) / "processor_config.json") or {}
    own = set(signature(processor.__init__).parameters) - {"image_processor", "tokenizer", "video_processor"}
    try:
        parts = {"image_processor": image.from_pretrained(source), "video_processor": video.from_pretrained(source)}
        settings = {name: value for name, value in fields.items() if name in own and name != "chat_template"}
        return processor(**parts, tokenizer=tokenizer, chat_template=template, **settings)
    except (OSError, ValueError, TypeError, AttributeError, ImportError) as error:
        raise CheckpointError(f"{source}: no usable processor ({one_line(error)})") from error


def _template(source: str) -> str | None:
    """The chat template of a directory's own file, where it has one."""
    file = Path(source) / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    return (read_json(file.with_suffix(".json")) or {}).get("chat_template")
