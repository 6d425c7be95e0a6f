"""Whole block-diffusion vision-language models of other projects, as data: config, names and traits of each.

A family is a vision-language model of transformers under another name (`vlm.composite`). Only names that were read
off published files or code stand here; how well each is attested is told in ``docs/checkpoints.md``.

Fast-dVLM: arXiv 2604.06832. The paper grows blocks from 4 to 32 in training; the released trainer never advances that
schedule and so trains at 32 alone. The paper's sizes are taken; `vlm.convert --block-size 32` takes the code's.
DiffusionVL: arXiv 2512.15713; the three rotary axes of its backbone all count tokens, also in pictures.
SDAR-VL: arXiv 2512.14068. BARD-VL: arXiv 2604.16514; its prompt has blocks of its own, the last one short.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class WholeFamily:
    """How a whole model of another project becomes one of ours.

    Attributes:
        backbone: ``model_type`` of the transformers class that has its arithmetic.
        text, vision: the same of that class's parts.
        processor: classes of transformers that prepare its input: the processor, images, videos.
        traits: of `vlm.DiffusionTraits`, as trained.
        told: trait to the path of the config field that says it, where one does.
        sizes: blocks smaller than the checkpoint's that training has seen too.
        names: regular expression to replacement, tensor name there to that of the backbone.
        needs: config field to the only value that is a block-diffusion model's, where the field is given.
        placeholders: what its chat template writes for a picture to the token that the backbone's processor expands.
        ends: tokens that end an answer, beside those that the directory names.
        note: what a person should know about what was assumed.
    """

    backbone: str
    text: str
    vision: str
    processor: tuple[str, str, str]
    traits: dict[str, Any]
    told: dict[str, tuple[str, ...]]
    sizes: tuple[int, ...] = ()
    names: dict[str, str] = field(default_factory=dict)
    needs: dict[str, Any] = field(default_factory=dict)
    placeholders: dict[str, str] = field(default_factory=dict)
    ends: tuple[int, ...] = (151645, 151643)
    note: str = ""


_BLOCK_CAUSAL = {"context_attention": "block_causal", "prediction_shift": 0}
_QWEN2_5_VL = ("Qwen2_5_VLProcessor", "Qwen2VLImageProcessor", "Qwen2VLVideoProcessor")

WHOLE: dict[str, WholeFamily] = {
    "fast_dvlm": WholeFamily(
        backbone="qwen2_5_vl",
        text="qwen2_5_vl_text",
        vision="qwen2_5_vl_vision",
        processor=_QWEN2_5_VL,
        traits={
            "context_attention": "causal",
            "prediction_shift": 1,
            "block_origin": "response",
            "ar_mode": True,
            "positions": "mrope",
            "block_size": 32,
            "mask_token_id": 151665,
        },
        told={"block_size": ("bd_size",), "mask_token_id": ("mask_token_id",)},
        sizes=(4, 8, 16, 32),
    ),
    "diffusionvl_qwenvl": WholeFamily(
        backbone="qwen2_5_vl",
        text="qwen2_5_vl_text",
        vision="qwen2_5_vl_vision",
        processor=_QWEN2_5_VL,
        traits={**_BLOCK_CAUSAL, "block_origin": "sequence", "block_size": 8, "mask_token_id": 151671},
        told={"block_size": ("bd3lm_block_size",), "mask_token_id": ("mask_token_id",)},
        names={
            r"^model\.vision_tower\.vision_tower\.": "model.visual.",
            r"^model\.mm_projector\.": "model.visual.",
            r"^model\.(embed_tokens|layers|norm)\.": r"model.language_model.\1.",
        },
        needs={"enable_bd3lm": True},
        placeholders={"<image>": "<|image_pad|>"},
        note="trained on one picture a conversation; its own code takes no videos",
    ),
    "sdar_v": WholeFamily(
        backbone="llava_onevision",
        text="qwen3",
        vision="siglip_vision_model",
        processor=("LlavaOnevisionProcessor", "LlavaOnevisionImageProcessor", "LlavaOnevisionVideoProcessor"),
        traits={**_BLOCK_CAUSAL, "block_origin": "sequence", "block_size": 4, "mask_token_id": 151669},
        told={"block_size": ("text_config", "block_size"), "mask_token_id": ("text_config", "mask_token_id")},
    ),
    "bard_vl": WholeFamily(
        backbone="qwen3_vl",
        text="qwen3_vl_text",
        vision="qwen3_vl_vision",
        processor=("Qwen3VLProcessor", "Qwen2VLImageProcessor", "Qwen3VLVideoProcessor"),
        traits={
            **_BLOCK_CAUSAL,
            "block_origin": "response",
            "positions": "mrope",
            "block_size": 32,
            "mask_token_id": 151671,
        },
        told={"mask_token_id": ("mask_token_id",)},
        note="its config does not say its block size, its published name does (B4 to B32): "
        "where that is not 32, vlm.convert --block-size",
    ),
}
