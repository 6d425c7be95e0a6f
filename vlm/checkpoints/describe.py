"""What a checkpoint is and what can be done with it, told from its config and the headers of its files alone."""

import re
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from vlm.checkpoints.complete import check_own, refuse_outsized, refuse_quantised
from vlm.checkpoints.composite import config_around
from vlm.checkpoints.families import FAMILIES, family_of
from vlm.checkpoints.files import UNUSABLE, CheckpointError, Tensor, one_line, read_config, read_tensors
from vlm.checkpoints.foreign import backbone_config, load_tokenizer, refuse_unknown, traits_of
from vlm.checkpoints.inputs import (
    Inputs,
    autoregressive_inputs,
    inputs_of,
    own_processor,
    refuse_contradictions,
    text_inputs,
)
from vlm.checkpoints.quantize import RUN
from vlm.checkpoints.whole import prepared, whole_config, whole_traits
from vlm.checkpoints.whole_families import WHOLE
from vlm.composite import COMPOSITES
from vlm.composite_processor import CompositeProcessor
from vlm.config import DiffusionTraits, VLMConfig
from vlm.generation.commit import POLICIES
from vlm.generation.config import MODES, BlockGenerationConfig
from vlm.generation.strategy import build_strategy

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
PARTS = ("vision_tower", "projector", "language_model")
_DECODER_LINEAR = re.compile(r"(^|\.)layers\.\d+\..*(proj|gate|w[123])\.weight$|blocks\.\d+\..*(proj|out)\.weight$")


_INSIDE = {
    "projector": re.compile(
        r"(^|\.)(mm_projector|multi_modal_projector|connector|visual\.(merger|deepstack_merger_list))\."
    ),
    "vision_tower": re.compile(r"(^|\.)(visual|vision_tower|vision_model)\."),
}


@dataclass(frozen=True)
class Description:
    """A checkpoint as `describe` sees it.

    Attributes:
        family: ``model_type`` in its config.
        backbone: ``model_type`` of the transformers language model.
        parts: name to number of parameters and bytes in the files.
        memory: dtype or quantisation to bytes of weights once loaded.
        kv_bytes: of one token in the cache, in float32.
        traits: as they will hold; None of a model that has to be converted first.
        origins: trait to where it was found.
        modes: decoding mode to why it is refused, None where it is legal.
        policies: commit policies that block mode takes.
        conversion: what was chosen when it was converted.
        inputs: tokenizer, turns and pictures.
    """

    source: str
    family: str
    backbone: str
    parts: dict[str, tuple[int, int]]
    memory: dict[str, int]
    kv_bytes: int
    traits: DiffusionTraits | None = None
    origins: dict[str, str] = field(default_factory=dict)
    modes: dict[str, str | None] = field(default_factory=dict)
    policies: tuple[str, ...] = ()
    conversion: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    inputs: Inputs = field(default_factory=Inputs)


def describe(source: str) -> Description:
    """Describe a directory.

    Raises:
        CheckpointError: it is incomplete, or of a kind that nothing here reads.
    """
    raw = read_config(source)
    kind, tensors = raw["model_type"], read_tensors(source)
    try:
        if kind == VLMConfig.model_type:
            return _own(source, tensors)
        if kind in FAMILIES or kind in WHOLE:
            return _foreign(source, raw, tensors)
        if kind == "diffusion_gemma":
            from vlm.checkpoints.diffusion_gemma import (
                describe_diffusion_gemma,
            )  # which tells in the words of this file

            return describe_diffusion_gemma(source, tensors)
        if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in COMPOSITES:
            refuse_unknown(source)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        text, inputs = config.get_text_config(), autoregressive_inputs(source, config)
        note = "autoregressive: python -m vlm.convert makes it a block-diffusion checkpoint"
        return Description(source, kind, text.model_type, **_sizes(tensors, text), note=note, inputs=inputs)
    except CheckpointError:
        raise
    except UNUSABLE as error:
        raise CheckpointError(f"{source}: not a usable checkpoint ({one_line(error)})") from error


def _own(source: str, tensors: dict[str, Tensor]) -> Description:
    check_own(source)
    config = VLMConfig.from_pretrained(source)
    refuse_outsized(source, config.text_config, tensors)
    traits, conversion = config.traits, getattr(config, "conversion", None) or {}
    origins = {name: "config.json" for name in config.diffusion}
    sizes = _sizes(tensors, config.text_config)
    processor = own_processor(source, config)
    refuse_contradictions(source, config, processor)
    told = {"traits": traits, "origins": origins, "conversion": conversion, **_legal(config)}
    told["inputs"] = inputs_of(source, config, processor)
    return Description(source, VLMConfig.model_type, config.text_config.model_type, **sizes, **told)


def _foreign(source: str, raw: dict, tensors: dict[str, Tensor]) -> Description:
    if raw["model_type"] in WHOLE:
        return _whole(source, raw, tensors)
    refuse_quantised(source, tensors)
    family = family_of(raw)
    text = backbone_config(source, raw, family)
    refuse_outsized(source, text, tensors)
    tokenizer = load_tokenizer(source)
    traits, origins = traits_of(raw, family, tokenizer, {})
    if not family.bare_mask and traits.mask_token_id not in tokenizer.get_vocab().values():
        raise CheckpointError(f"{source}: the mask token {traits.mask_token_id} is not in the tokenizer")
    told = {"traits": traits, "origins": _sizes_told(origins), "note": family.note}
    told |= {**_legal(VLMConfig(text_config=text, diffusion=traits)), "inputs": text_inputs(source, tokenizer)}
    return Description(source, raw["model_type"], family.backbone, **_sizes(tensors, text), **told)


def _whole(source: str, raw: dict, tensors: dict[str, Tensor]) -> Description:
    refuse_quantised(source, tensors)
    family, tokenizer = WHOLE[raw["model_type"]], load_tokenizer(source)
    config = whole_config(source, raw, family)
    text = config.get_text_config()
    refuse_outsized(source, text, tensors)
    traits, origins = whole_traits(raw, family, tokenizer, {})
    _, fresh, original = prepared(source, config, tokenizer, traits.mask_token_id, family)
    ours = config_around(config, traits, {})
    processor = CompositeProcessor(fresh, original, ours)
    refuse_contradictions(source, ours, processor)
    code = None if family.llava is None else "the code that trained it"
    told = {"traits": traits, "origins": _sizes_told(origins), "note": family.note}
    told |= {**_legal(ours), "inputs": inputs_of(source, ours, processor, code)}
    return Description(source, raw["model_type"], family.backbone, **_sizes(tensors, text), **told)


def _sizes_told(origins: dict[str, str]) -> dict[str, str]:
    """Origins of traits, with that of the block sizes that training has seen, which follow from the block size."""
    return {"trained_block_sizes": "inferred from block_size", **origins}


def _legal(config: VLMConfig) -> dict[str, Any]:
    """Which modes the decoder takes, by asking it; and the commit policies that go with block mode."""
    modes = {mode: _refusal(config, mode=mode) for mode in MODES}
    policies = tuple(p for p in POLICIES if modes["block"] is None and _refusal(config, policy=p) is None)
    return {"modes": modes, "policies": policies}


def _refusal(config: VLMConfig, **settings: str) -> str | None:
    try:
        build_strategy(SimpleNamespace(config=config), BlockGenerationConfig(**settings))
    except ValueError as error:
        return str(error)
    return None


def _sizes(tensors: dict[str, Tensor], config) -> dict[str, Any]:
    """Parts, memory and KV of a model with these tensors."""
    parts = {part: (0, 0) for part in PARTS}
    linear = rest = scales = 0
    for name, tensor in tensors.items():
        part = _part_of(name)
        count, size = parts[part]
        parts[part] = (count + tensor.count, size + tensor.count * BYTES.get(tensor.dtype, 1))
        if part == "language_model" and len(tensor.shape) == 2 and _DECODER_LINEAR.search(name):
            linear, scales = linear + tensor.count, scales + tensor.shape[0]
        else:
            rest += tensor.count
    memory = {"float32": 4 * (linear + rest), "bfloat16": 2 * (linear + rest), "float16": 2 * (linear + rest)}
    memory["int8 decoder, rest float32"] = linear + 4 * scales + 4 * rest
    memory["nf4 decoder, rest float32"] = linear // 2 + 4 * linear // RUN + 4 * rest
    return {"parts": {k: v for k, v in parts.items() if v[0]}, "memory": memory, "kv_bytes": _kv_bytes(config)}


def _part_of(name: str) -> str:
    """The part that a tensor belongs to, also where all stand together in a whole vision-language model."""
    found = next((part for part in ("projector", "vision_tower") if _INSIDE[part].search(name)), None)
    return found or next((part for part in PARTS if name.startswith(part + ".")), "language_model")


def _kv_bytes(config) -> int:
    heads = config.num_attention_heads
    kv = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * 4 * config.num_hidden_layers * kv * width
