"""Our checkpoints leave for other engines: as a stock model (``ar``), in SDAR's layout or in DiffusionVL's.

An engine reads the weights and knows nothing of traits: it has one rule of attention, one grid and one mask built in.
A checkpoint that was trained otherwise would load there and answer wrongly, so it is refused with the reason.
"""

import json
from pathlib import Path

import torch
from torch import nn
from transformers import GenerationConfig

from vlm.checkpoints.export_diffusionvl import not_diffusionvl, save_diffusionvl
from vlm.checkpoints.files import CheckpointError, local_directory, read_json, read_tensors
from vlm.checkpoints.load import EMBEDDED, load
from vlm.checkpoints.writing import new_directory, refuse_existing
from vlm.generation.spans import require_ar
from vlm.model import VLMForBlockDiffusion

TARGETS = ("ar", "sdar", "diffusionvl")
SDAR_MASK = 151669  # LMDeploy and SGLang know no other
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_SDAR_NAMES = {"qwen3": ("sdar", "SDARForCausalLM"), "qwen3_moe": ("sdar_moe", "SDARMoeForCausalLM")}


def export(model: str | None, output: str, to: str, text_only: bool = False) -> None:
    """Write a checkpoint as another engine reads it to the new directory ``output``, in the dtype of its files.

    Args:
        model: a directory or hub id; None takes the embedded model.
        to: one of `TARGETS`.
        text_only: leave the vision encoder and the projector behind.

    Raises:
        CheckpointError: it cannot be loaded, the engine could not serve it, or the output exists.
    """
    refuse_existing(output)
    source = str(EMBEDDED) if model is None else local_directory(model)
    dtype = DTYPES.get(next(iter(read_tensors(source).values())).dtype, torch.float32)
    loaded, processor = load(source, dtype=dtype, device="cpu")
    reason = refusal(loaded, to, text_only)
    if reason is not None:
        raise CheckpointError(f"{source}: {reason}")
    with new_directory(output) as fresh:
        if to == "diffusionvl":
            save_diffusionvl(loaded, processor, fresh)
            return
        {"ar": _save_stock, "sdar": _save_sdar}[to](loaded, fresh)
        if loaded.config.composite_config is not None:
            processor.original.save_pretrained(fresh)
        else:
            tokenizer = processor.tokenizer
            tokenizer.chat_template = _plain(processor.chat_template or tokenizer.chat_template)
            tokenizer.save_pretrained(fresh)


def refusal(model: VLMForBlockDiffusion, to: str, text_only: bool) -> str | None:
    """Why an engine cannot serve a model; None if it can."""
    if to == "diffusionvl":
        return "DiffusionVL's layout has pictures: leave --text-only out" if text_only else not_diffusionvl(model)
    if model.config.composite_config is not None and (text_only or to == "sdar"):
        return f"its decoder is a whole {model.config.composite_config.model_type!r} model, which leaves as that only"
    if model.config.vision_config and not text_only:
        return (
            "no stock transformers class has its projector (a norm and a table of places behind the usual layers); "
            "--text-only exports the language model alone"
        )
    return _not_autoregressive(model) if to == "ar" else _not_sdar(model)


def _not_autoregressive(model: VLMForBlockDiffusion) -> str | None:
    try:
        require_ar(model.config.traits, "ar")
    except ValueError as error:
        return str(error)
    return None


def _not_sdar(model: VLMForBlockDiffusion) -> str | None:
    """The first trait that SDAR's engines do not have."""
    traits, kind = model.config.traits, model.config.text_config.model_type
    if kind not in _SDAR_NAMES:
        return f"SDAR's engines run Qwen3 decoders, not {kind!r}"
    wanted = {"context_attention": "block_causal", "prediction_shift": 0, "block_origin": "sequence", "noise": "mask"}
    for name, value in wanted.items():
        own = getattr(traits, name)
        if own != value:
            return f"SDAR's engines decode with {name} {value!r}; this checkpoint was made for {own!r}"
    if traits.mask_token_id != SDAR_MASK:
        return f"LMDeploy and SGLang take token {SDAR_MASK} for the mask; here it is {traits.mask_token_id}"
    return None


def _save_stock(model: VLMForBlockDiffusion, directory: Path) -> None:
    """The language model as transformers writes it, with the settings that keep special tokens out of answers."""
    own = model.generation_config
    language_model = model.language_model
    language_model.generation_config = GenerationConfig(
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
        bos_token_id=own.bos_token_id,
        suppress_tokens=sorted({model.config.traits.mask_token_id, *(own.suppress_tokens or [])}),
    )
    language_model.save_pretrained(directory)


def _save_sdar(model: VLMForBlockDiffusion, directory: Path) -> None:
    """Qwen3's names, an output head of its own, and SDAR's config fields."""
    language_model = model.language_model
    if language_model.config.tie_word_embeddings:  # with tensor parallelism SGLang does not share the table
        language_model.config.tie_word_embeddings = False
        language_model.lm_head.weight = nn.Parameter(language_model.lm_head.weight.detach().clone())
    _save_stock(model, directory)
    kind, architecture = _SDAR_NAMES[language_model.config.model_type]
    fields = read_json(directory / "config.json")
    rope = fields.pop("rope_parameters", None) or {}
    fields |= {"rope_theta": rope.get("rope_theta", 10000.0)}
    if rope.get("rope_type", "default") != "default":
        fields["rope_scaling"] = {name: value for name, value in rope.items() if name != "rope_theta"}
    traits = model.config.traits
    fields |= {"model_type": kind, "architectures": [architecture], "tie_word_embeddings": False}
    fields |= {"block_size": traits.block_size, "mask_token_id": traits.mask_token_id}
    (directory / "config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")


def _plain(template: str) -> str:
    """A chat template without the marks around answers, which not every engine's Jinja knows."""
    return template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
