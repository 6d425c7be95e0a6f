"""A checkpoint leaves in DiffusionVL's layout: LLaVA's names around Qwen2.5-VL's parts, for that project's own code.

That code has attention, grid, mask and positions built in, so a checkpoint with other traits is refused. The export
names no remote code: the project's three ``*_diffusionvl_qwen2_5_vl.py`` files have to be put beside it.
"""

import json
import re
from pathlib import Path

from huggingface_hub import save_torch_state_dict

from vlm.checkpoints.whole_families import WHOLE
from vlm.composite_processor import CompositeProcessor
from vlm.model import VLMForBlockDiffusion

KIND = "diffusionvl_qwenvl"
MASK = 151671  # its code knows no other
_NAMES = [
    (r"^model\.visual\.merger\.", "model.mm_projector.merger."),
    (r"^model\.visual\.", "model.vision_tower.vision_tower."),
    (r"^model\.language_model\.", "model."),
]
_WANTED = {
    "context_attention": "block_causal",
    "prediction_shift": 0,
    "block_origin": "sequence",
    "positions": "1d",
    "noise": "mask",
}


def not_diffusionvl(model: VLMForBlockDiffusion) -> str | None:
    """Why DiffusionVL's code cannot run a model; None if it can."""
    composite = model.config.composite_config
    if composite is None or composite.model_type != WHOLE[KIND].backbone:
        kind = model.config.text_config.model_type if composite is None else composite.model_type
        return f"DiffusionVL's code runs whole Qwen2.5-VL models, not {kind!r}"
    traits = model.config.traits
    for name, value in _WANTED.items():
        if getattr(traits, name) != value:
            return f"DiffusionVL's code decodes with {name} {value!r}; this checkpoint has {getattr(traits, name)!r}"
    if traits.mask_token_id != MASK:
        return f"DiffusionVL's code takes row {MASK} for the mask; here it is {traits.mask_token_id}"
    return None


def save_diffusionvl(model: VLMForBlockDiffusion, processor: CompositeProcessor, directory: Path) -> None:
    """Weights, config, tokenizer and pixel settings; the tokenizer is the original's, which does not name the mask."""
    directory.mkdir(parents=True, exist_ok=True)
    own = model.config.composite_config
    tensors = {_renamed(name): tensor for name, tensor in model.language_model.state_dict().items()}
    if own.tie_word_embeddings:
        del tensors["lm_head.weight"]
    save_torch_state_dict(tensors, directory)
    (directory / "config.json").write_text(json.dumps(_config(model), indent=2, sort_keys=True) + "\n")
    ends = {"eos_token_id": model.generation_config.eos_token_id}
    (directory / "generation_config.json").write_text(json.dumps(ends) + "\n")
    tokenizer, template = processor.original.tokenizer, processor.chat_template
    for written, placeholder in WHOLE[KIND].placeholders.items():
        template = template.replace(placeholder, written)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    processor.original.image_processor.save_pretrained(directory)


def _renamed(name: str) -> str:
    return next((re.sub(pattern, new, name) for pattern, new in _NAMES if re.search(pattern, name)), name)


def _config(model: VLMForBlockDiffusion) -> dict:
    """Its config: the text model's fields stand in a section and at the top."""
    own = model.config.composite_config
    text, vision = own.text_config.to_dict(), own.vision_config.to_dict()
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope.pop("rope_theta")
    text["rope_scaling"] = {**rope, "type": rope.get("rope_type", "default")}
    plain = {name: value for name, value in text.items() if name not in ("model_type", "architectures")}
    return {
        **plain,
        "model_type": KIND,
        "architectures": ["DiffusionVL_Qwen2_5_VL_ForConditionalGeneration"],
        "text_config": text,
        "vision_config": vision,
        "image_token_id": own.image_token_id,
        "video_token_id": None,
        "tie_word_embeddings": own.tie_word_embeddings,
        "enable_bd3lm": True,
        "bd3lm_block_size": model.config.traits.block_size,
    }
