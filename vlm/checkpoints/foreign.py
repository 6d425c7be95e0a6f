"""Checkpoints of other projects become our classes in memory: config, weights, tokenizer, traits.

The weights go through the stock transformers class of the family's backbone, so sharded files, meta-device loading
and a mixture's experts are handled there. No code that a checkpoint brings is ever run.
"""

import logging
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from vision_encoders import VisionEncoder
from vlm.checkpoints.complete import refuse_outsized, refuse_quantised
from vlm.checkpoints.families import FAMILIES, REFUSED, Family, family_of
from vlm.checkpoints.files import (
    CheckpointError,
    one_line,
    read_config,
    read_json,
    read_tensors,
    refuse_differences,
)
from vlm.checkpoints.reading import weights_of
from vlm.checkpoints.vocabulary import Vocabulary, grow, registered, vocabulary
from vlm.checkpoints.whole_families import WHOLE
from vlm.composite import COMPOSITES
from vlm.config import TRAIT_NAMES, DiffusionTraits, VLMConfig
from vlm.generation.config import BlockGenerationConfig
from vlm.model import VLMForBlockDiffusion
from vlm.processor import VLMProcessor

_log = logging.getLogger(__name__)


def load_foreign(
    source: str, dtype: torch.dtype | str, given: dict[str, Any] | None = None, encoder: VisionEncoder | None = None
) -> tuple[VLMForBlockDiffusion, VLMProcessor]:
    """A model of a family in `families.FAMILIES` and its processor.

    Args:
        source: a directory.
        dtype: ``auto`` keeps that of the files.
        given: traits that a person chose, in place of the checkpoint's or the family's.
        encoder: put before it, with a new projector.

    Raises:
        CheckpointError: one line that names what is wrong.
    """
    raw = read_config(source)
    family = family_of(raw)
    config = backbone_config(source, raw, family)
    tokenizer = load_tokenizer(source)
    traits, origins = traits_of(raw, family, tokenizer, given or {})
    if family.bare_mask:
        mask = registered(tokenizer, traits.mask_token_id, config.vocab_size)
        tokenizer.backend_tokenizer.add_special_tokens([mask.token])
    for name in ("block_size", "mask_token_id"):  # a config may say them: the other traits are the family's own
        if origins[name] not in ("config.json", "given"):
            _log.warning("%s: %s is %s, from %s", source, name, getattr(traits, name), origins[name])
    if family.note:
        _log.warning("%s: %s", source, family.note)
    language_model = load_weights(source, config, dtype, family.names)
    words = vocabulary(tokenizer, config.vocab_size, ends_of(source, raw, family), traits.mask_token_id)
    conversion = {"source": Path(source).name, "family": raw["model_type"], "traits_from": origins}
    grow(language_model, words.rows)
    return assemble(language_model, words, traits, conversion, encoder)


def backbone_config(source: str, raw: dict, family: Family) -> PreTrainedConfig:
    """The stock config that a family's config translates to.

    Raises:
        CheckpointError: a field has a value that the backbone cannot compute.
    """
    refuse_values(source, raw, family.needs)
    # The backbone's own fields, and the old names of its rotary ones: the rest is the other project's bookkeeping.
    known = {*AutoConfig.for_model(family.backbone).to_dict(), "rope_theta", "rope_scaling"} - {"model_type"}
    fields = {name: value for name, value in raw.items() if name in known and name not in BOOKKEEPING}
    fields |= {ours: raw[name] for name, ours in family.fields.items() if raw.get(name) is not None}
    return AutoConfig.for_model(family.backbone, **fields)


BOOKKEEPING = ("architectures", "transformers_version", "_name_or_path", "auto_map", "dtype", "torch_dtype")


def refuse_values(source: str, raw: dict, needs: dict[str, Any]) -> None:
    """CheckpointError if a config field has another value than the only one that can be computed here."""
    for name, allowed in needs.items():
        if name in raw and raw[name] != allowed:
            raise CheckpointError(f"{source}: {name} {raw[name]!r} is not supported, only {allowed!r}")


def traits_of(raw: dict, family: Family, tokenizer, given: dict[str, Any]) -> tuple[DiffusionTraits, dict[str, str]]:
    """The traits of a checkpoint, and where each of them was found.

    Raises:
        ValueError: no mask token can be found, or the traits contradict each other.
    """
    values, origins = dict(family.traits), {name: "the family's default" for name in family.traits}
    for name in TRAIT_NAMES:
        if raw.get(name) is not None and name in family.told:
            values[name], origins[name] = raw[name], "config.json"
        if given.get(name) is not None:
            values[name], origins[name] = given[name], "given"
    if "mask_token_id" not in values:
        if tokenizer.mask_token_id is None:
            raise ValueError("neither config.json nor the tokenizer says which token is the mask")
        values["mask_token_id"], origins["mask_token_id"] = tokenizer.mask_token_id, "the tokenizer"
    if values["context_attention"] != "causal":  # a person's choice: what the family can do under causal context ends
        values |= {"ar_mode": False, "block_attention": "bidirectional", "off_grid_ok": False}
    size, causal = values["block_size"], values.get("block_attention") == "causal"
    # The first rows of a causal block see none of the masks behind them: a smaller block has been trained with it.
    values.setdefault("trained_block_sizes", tuple(range(1, size + 1)) if causal else (size,))
    return DiffusionTraits(**values), origins


def ends_of(source: str, raw: dict, family: Family | None = None) -> list[int]:
    """Tokens that end an answer, as generation_config.json, config.json and the family name them."""
    generation = read_json(Path(source) / "generation_config.json") or {}
    found = [generation.get("eos_token_id"), raw.get("eos_token_id"), *(family.ends if family else ())]
    flat = [token for entry in found for token in (entry if isinstance(entry, list) else [entry])]
    return sorted({token for token in flat if token is not None})


def load_tokenizer(source: str) -> PreTrainedTokenizerFast:
    """The tokenizer of ``tokenizer.json``, whatever class its directory names; CheckpointError if there is none."""
    if not (Path(source) / "tokenizer.json").is_file():
        raise CheckpointError(f"{source}: no tokenizer.json")
    try:
        return PreTrainedTokenizerFast.from_pretrained(source)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise CheckpointError(f"{source}: not a usable tokenizer ({one_line(error)})") from error


def load_weights(
    source: str,
    config: PreTrainedConfig,
    dtype: torch.dtype | str,
    names: dict[str, str] | None = None,
    classes: Mapping[type, type] = MODEL_FOR_CAUSAL_LM_MAPPING,
) -> PreTrainedModel:
    """The stock model of ``config`` with a directory's weights, all of them and no others.

    Args:
        dtype: ``auto`` keeps that of the files.
        names: regular expression to replacement, for tensors that are called differently there.
        classes: of transformers, by class of config; by default its language models.

    Raises:
        CheckpointError: quantised weights, a config of a far larger model, or tensors that are missing, extra or
            misshapen.
    """
    tensors = read_tensors(source)
    refuse_quantised(source, tensors)
    refuse_outsized(source, config.get_text_config(), tensors)
    model, told = classes[type(config)].from_pretrained(
        **weights_of(source, dtype), config=config, dtype=dtype, key_mapping=names, use_safetensors=True,
        attn_implementation="sdpa", ignore_mismatched_sizes=True, output_loading_info=True,
    )  # fmt: skip
    refuse_differences(source, told)
    return model.eval()


def assemble(
    language_model: PreTrainedModel,
    words: Vocabulary,
    traits: DiffusionTraits,
    conversion: dict[str, Any],
    encoder: VisionEncoder | None = None,
) -> tuple[VLMForBlockDiffusion, VLMProcessor]:
    """Our model around a language model that is there already, and its processor.

    Args:
        words: the tokenizer with its special tokens.
        conversion: where it came from and what was chosen; written into the config.
        encoder: a vision encoder; None makes a model that reads text only.
    """
    config = VLMConfig(
        text_config=deepcopy(language_model.config),  # whose attention our own class would set to what it prefers
        vision_config=None if encoder is None else encoder.config.to_dict(),
        image_token_id=words.image.id,
        video_token_id=words.video.id,
        diffusion=traits,
        conversion={**conversion, "tokens": words.told()},
    )
    model = VLMForBlockDiffusion(config, language_model)
    if encoder is not None:
        model.vision_tower = encoder
    model = model.to(language_model.dtype).eval()
    model.generation_config = BlockGenerationConfig(
        eos_token_id=words.ends,
        pad_token_id=words.tokenizer.pad_token_id,
        bos_token_id=words.tokenizer.bos_token_id,
        suppress_tokens=[words.mask.id, words.image.id, words.video.id],
        block_size=traits.block_size,
    )
    if encoder is not None:
        from vlm.training.build import build_processor  # which is a trainer's, and imports as slowly as one

        return model, build_processor(model, words.tokenizer)
    return model, VLMProcessor(tokenizer=words.tokenizer, chat_template=words.tokenizer.chat_template)


def refuse_unknown(source: str) -> None:
    """Raise the CheckpointError that says why a directory is neither ours nor of a known family."""
    raw = read_config(source)
    kind = raw["model_type"]
    if kind in REFUSED:
        raise CheckpointError(f"{source}: a model of type {kind!r} cannot be loaded: {REFUSED[kind]}")
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or kind in COMPOSITES:
        raise CheckpointError(
            f"{source}: a model of type {kind!r} is autoregressive; python -m vlm.convert {source} DIR makes it ours"
        )
    remote = "; the code that its auto_map names is never run" if "auto_map" in raw else ""
    known = ", ".join(sorted([*FAMILIES, *WHOLE, VLMConfig.model_type]))
    raise CheckpointError(f"{source}: a model of type {kind!r} is not known; known: {known}{remote}")
