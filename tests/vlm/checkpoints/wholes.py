"""Tiny directories of other projects' whole vision-language models, as published: names, config fields, templates.

The weights are those of a transformers class, which is handed back beside the directory as the oracle.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from tests.vlm.checkpoints.composites import QWEN_MARKS, QWEN_SIZES, TINY
from tests.vlm.checkpoints.sources import SIZES, bare_tokenizer
from vlm import VLMForBlockDiffusion
from vlm.checkpoints.load import load
from vlm.composite_processor import CompositeProcessor

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for p in m['content'] %}{% if p['type'] == 'image' %}IMAGE{% else %}{{ p['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STOCK_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
ROPE = {"rope_theta": 1e4, "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}}
TEXT = {**SIZES, "rms_norm_eps": 1e-6, "hidden_act": "silu"}
GRID = [[16, 16], [16, 32], [32, 16], [32, 32]]
BLOCK = 4


class Whole(NamedTuple):
    """A directory as published, the transformers model with its weights, and what `load` makes of it."""

    stock: PreTrainedModel
    model: VLMForBlockDiffusion
    processor: CompositeProcessor
    path: Path


def _ids(tokenizer) -> dict[str, int]:
    start, end, image, video = (tokenizer.convert_tokens_to_ids(token) for token in QWEN_MARKS)
    return {"image_token_id": image, "video_token_id": video, "vision_start_token_id": start,
            "vision_end_token_id": end}  # fmt: skip


def fast_dvlm(path: Path, **changes) -> PreTrainedModel:
    """Qwen2.5-VL's flat config with ``bd_size``; the mask is a token of the tokenizer, and not in the config."""
    tokenizer = bare_tokenizer("<|im_start|>", "<|im_end|>", *QWEN_MARKS, "|<MASK>|")
    vision = {"model_type": "qwen2_5_vl", **TINY["qwen2_5_vl"].vision, "in_chans": 3}
    flat = {**TEXT, **ROPE, "vocab_size": len(tokenizer) + 9, "tie_word_embeddings": True, **_ids(tokenizer)}
    config = {"model_type": "fast_dvlm", "architectures": ["Fast_dVLMForConditionalGeneration"], "bd_size": 32,
              "auto_map": {"AutoModelForCausalLM": "modeling.Fast_dVLMForConditionalGeneration"}, **flat,
              "vision_config": vision}  # fmt: skip
    stock = _stock("qwen2_5_vl", flat, vision, {**_ids(tokenizer), "tie_word_embeddings": True})
    return _save(path, stock, tokenizer, {**config, **changes}, [], CHATML.replace("IMAGE", STOCK_IMAGE))


def diffusionvl(path: Path, **changes) -> PreTrainedModel:
    """LLaVA's names around Qwen2.5-VL's parts; the mask is a row that no token has."""
    tokenizer = bare_tokenizer("<|im_start|>", "<|im_end|>", *QWEN_MARKS)
    vision = {"model_type": "qwen2_5_vl", **TINY["qwen2_5_vl"].vision}
    text = {**TEXT, **ROPE, "vocab_size": len(tokenizer) + 9, "model_type": "qwen2_5_vl_text"}
    config = {"model_type": "diffusionvl_qwenvl", **{k: v for k, v in text.items() if k != "model_type"},
              "architectures": ["DiffusionVL_Qwen2_5_VL_ForConditionalGeneration"], "text_config": text,
              "vision_config": vision, "enable_bd3lm": True, "bd3lm_block_size": BLOCK, "tie_word_embeddings": False,
              "bd3lm_antithetic_sampling": True, "mm_projector_type": "qwen_merger", **_ids(tokenizer),
              "video_token_id": None, "mask_token_id": len(tokenizer) + 6}  # fmt: skip
    stock = _stock("qwen2_5_vl", text, vision, {**_ids(tokenizer), "tie_word_embeddings": False})
    names = [(r"^model\.language_model\.", "model."), (r"^model\.visual\.merger\.", "model.mm_projector.merger."),
             (r"^model\.visual\.", "model.vision_tower.vision_tower.")]  # fmt: skip
    return _save(path, stock, tokenizer, {**config, **changes}, names, CHATML.replace("IMAGE", "<image>\n"))


SDAR_VL_NAMES = [
    (r"^model\.language_model\.", "language_model.model."), (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.vision_tower\.", "vision_tower.vision_model."), (r"^model\.image_newline", "image_newline"),
    (r"^model\.multi_modal_projector\.", "multi_modal_projector."),
]  # fmt: skip


def sdar_vl(path: Path, names: list = SDAR_VL_NAMES, **changes) -> PreTrainedModel:
    """LLaVA-OneVision around SDAR's decoder."""
    tokenizer = bare_tokenizer("<|im_start|>", "<|im_end|>", *QWEN_MARKS, "<|MASK|>")
    ids, mask = _ids(tokenizer), tokenizer.convert_tokens_to_ids("<|MASK|>")
    text = {**TEXT, "head_dim": 8, "rope_theta": 1e6, "rope_scaling": None, "vocab_size": len(tokenizer) + 9}
    vision = {"model_type": "siglip_vision_model", **TINY["llava_onevision"].vision}
    fields = {"image_token_index": ids["image_token_id"], "video_token_index": ids["video_token_id"],
              "image_grid_pinpoints": GRID, "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
              "vision_aspect_ratio": "anyres_max_9", "projector_hidden_act": "gelu", "tie_word_embeddings": False,
              "multimodal_projector_bias": True}  # fmt: skip
    sdar = {"model_type": "sdar", "block_size": BLOCK, "mask_token_id": mask, "fuse_cross_entropy": True, **text}
    config = {"model_type": "sdar_v", "architectures": ["LlavaOnevisionForConditionalGeneration"], **fields,
              "auto_map": {"AutoModel": "modeling_llava_onevision.LlavaOnevisionForConditionalGeneration"},
              "use_image_newline_parameter": True, "text_config": sdar, "vision_config": vision}  # fmt: skip
    stock = _stock("llava_onevision", {**text, "model_type": "qwen3"}, vision, fields)
    settings = {"processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 16, "image_token": "<|image_pad|>",
                "video_token": "<|video_pad|>", "vision_feature_select_strategy": "full",
                "vision_aspect_ratio": "anyres_max_9"}  # fmt: skip
    return _save(
        path, stock, tokenizer, {**config, **changes}, names, CHATML.replace("IMAGE", "<|image_pad|>"), settings
    )


def bard_vl(path: Path, **changes) -> PreTrainedModel:
    """Qwen3-VL's names and fields under other types; the mask is a row that no token has."""
    tokenizer = bare_tokenizer("<|im_start|>", "<|im_end|>", *QWEN_MARKS)
    scaling = {"mrope_section": [2, 1, 1], "mrope_interleaved": True, "rope_type": "default"}
    text = {**TEXT, "head_dim": 8, "rope_theta": 5e6, "rope_scaling": scaling, "vocab_size": len(tokenizer) + 9}
    vision, ids = TINY["qwen3_vl"].vision, _ids(tokenizer)
    config = {"model_type": "bard_vl", "architectures": ["BardVLForConditionalGeneration"], **ids,
              "text_config": {"model_type": "bard_vl_text", **text}, "tie_word_embeddings": False,
              "vision_config": {"model_type": "bard_vl", **vision}, "mask_token_id": len(tokenizer) + 2}  # fmt: skip
    stock = _stock("qwen3_vl", text, vision, {**ids, "tie_word_embeddings": False})
    return _save(path, stock, tokenizer, {**config, **changes}, [], CHATML.replace("IMAGE", STOCK_IMAGE))


FAMILIES = {"fast_dvlm": fast_dvlm, "diffusionvl_qwenvl": diffusionvl, "sdar_v": sdar_vl, "bard_vl": bard_vl}
_MADE: dict[str, Whole] = {}


def made(kind: str, factory) -> Whole:
    """Once a session; ``factory`` is pytest's ``tmp_path_factory``."""
    if kind not in _MADE:
        path = factory.mktemp(kind)
        stock = FAMILIES[kind](path)
        _MADE[kind] = Whole(stock, *load(str(path), dtype=torch.float64, device="cpu"), path)
    return _MADE[kind]


def _stock(backbone: str, text: dict, vision: dict, fields: dict) -> PreTrainedModel:
    """Random weights, biases and norms random too."""
    types = {"qwen2_5_vl": ("qwen2_5_vl_text", "qwen2_5_vl_vision"), "qwen3_vl": ("qwen3_vl_text", "qwen3_vl_vision")}
    text_type, vision_type = types.get(backbone, (text.get("model_type"), vision.get("model_type")))
    text, vision = {**text, "model_type": text_type}, {**vision, "model_type": vision_type}
    torch.manual_seed(0)
    config = AutoConfig.for_model(backbone, text_config=text, vision_config=vision, **fields)
    stock = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return stock.double().eval()


def _save(path: Path, stock, tokenizer, config: dict, names, template: str, settings: dict | None = None):
    """Write the directory, with tensors called by the first of ``names`` that fits."""
    path.mkdir(exist_ok=True)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(path)
    tied = stock.config.tie_word_embeddings
    tensors = {n: t.contiguous().clone() for n, t in stock.state_dict().items() if not (tied and "lm_head" in n)}
    save_file(
        {_renamed(n, names): t for n, t in tensors.items()}, path / "model.safetensors", metadata={"format": "pt"}
    )
    (path / "config.json").write_text(json.dumps(config))
    (path / "modeling.py").write_text("raise SystemExit('remote code was run')\n")
    if settings is None:
        transformers.Qwen2VLImageProcessor(**QWEN_SIZES).save_pretrained(path)
    else:
        (path / "processor_config.json").write_text(json.dumps(settings))
        transformers.LlavaOnevisionImageProcessor(
            size={"height": 16, "width": 16}, image_grid_pinpoints=GRID
        ).save_pretrained(path)
        transformers.LlavaOnevisionVideoProcessor(size={"height": 16, "width": 16}).save_pretrained(path)
    return stock


def _renamed(name: str, names: list[tuple[str, str]]) -> str:
    return next((re.sub(pattern, new, name) for pattern, new in names if re.search(pattern, name)), name)
