"""Whole block-diffusion vision-language models of other projects, as data: config, names and traits of each.

A family is a vision-language model of transformers under another name (`vlm.composite`). Only names that were read
off published files or code stand here; how well each is attested is told in ``docs/checkpoints.md``.

Fast-dVLM: arXiv 2604.06832. The paper grows blocks from 4 to 32 in training; the released trainer never advances that
schedule and so trains at 32 alone. The paper's sizes are taken; `vlm.convert --block-size 32` takes the code's.
DiffusionVL: arXiv 2512.15713; the three rotary axes of its backbone all count tokens, also in pictures.
SDAR-VL: arXiv 2512.14068. BARD-VL: arXiv 2604.16514; its prompt has blocks of its own, the last one short.
LLaDA-V: arXiv 2505.16933; one stream in which everything sees everything. It and the SigLIP variants of DiffusionVL
were trained by LLaVA's code, of which much stands in no file of a checkpoint (`vlm.checkpoints.llava`).
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Llava:
    """What LLaVA's code has built in.

    Attributes:
        tower: fields of its SigLIP tower's config, without the last layer, which that code leaves out.
        turns: how turns are written, of `vlm.checkpoints.chat_format.KNOWN`.
        system: what every conversation begins with, unless it has a system message of its own.
    """

    tower: dict[str, Any]
    turns: str
    system: str


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
        silent: tokens that its sampler never writes, beside the mask and placeholders.
        llava: of a family that LLaVA's code trained; the processor's settings are then that code's.
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
    silent: tuple[str, ...] = ()
    llava: Llava | None = None
    note: str = ""


_BLOCK_CAUSAL = {"context_attention": "block_causal", "prediction_shift": 0}
_QWEN2_5_VL = ("Qwen2_5_VLProcessor", "Qwen2VLImageProcessor", "Qwen2VLVideoProcessor")
_ONEVISION = ("LlavaOnevisionProcessor", "LlavaOnevisionImageProcessor", "LlavaOnevisionVideoProcessor")

# SigLIP so400m at 384 pixels, of whose 27 layers LLaVA's code keeps 26.
_SIGLIP = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
_LLAVA_NAMES = {
    r"^model\.vision_tower\.vision_tower\.vision_model\.": "model.vision_tower.",
    r"^model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
    r"^model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
    r"^model\.(embed_tokens|layers|norm)\.": r"model.language_model.\1.",
}
_LLAVA_NEEDS = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_vision_select_layer": -2,
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "add_faster_video": False,
    "rope_scaling": None,
}
_QWEN_LLAVA = Llava(_SIGLIP, "chatml", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.")
_LLADA_LLAVA = Llava(
    _SIGLIP,
    "llama3",
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language.",
)
_LLADA_ENDS = (126348, 126081)

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
        processor=_ONEVISION,
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
    "diffusionvl_qwen": WholeFamily(
        backbone="llava_onevision",
        text="qwen2",
        vision="siglip_vision_model",
        processor=_ONEVISION,
        traits={**_BLOCK_CAUSAL, "block_origin": "sequence", "block_size": 8, "mask_token_id": 151671},
        told={"block_size": ("bd3lm_block_size",), "mask_token_id": ("mask_token_id",)},
        names=_LLAVA_NAMES,
        needs={**_LLAVA_NEEDS, "enable_bd3lm": True},
        llava=_QWEN_LLAVA,
    ),
    "llava_llada_bd3lm": WholeFamily(
        backbone="llava_onevision",
        text="llama",
        vision="siglip_vision_model",
        processor=_ONEVISION,
        traits={**_BLOCK_CAUSAL, "block_origin": "sequence", "block_size": 8, "mask_token_id": 126336},
        told={"block_size": ("bd3lm_block_size",), "mask_token_id": ("mask_token_id",)},
        names=_LLAVA_NAMES,
        needs={**_LLAVA_NEEDS, "enable_bd3lm": True},
        ends=_LLADA_ENDS,
        llava=_LLADA_LLAVA,
    ),
    "llava_llada": WholeFamily(
        backbone="llava_onevision",
        text="llama",
        vision="siglip_vision_model",
        processor=_ONEVISION,
        traits={
            "context_attention": "full",
            "prediction_shift": 0,
            "block_origin": "response",
            "block_size": 128,
            "mask_token_id": 126336,
        },
        told={"mask_token_id": ("mask_token_id",)},
        sizes=(2, 4, 8, 16, 32, 64, 96),
        names=_LLAVA_NAMES,
        needs=_LLAVA_NEEDS,
        ends=_LLADA_ENDS,
        silent=("<|startoftext|>", "<|endoftext|>", "<|start_header_id|>", "<|end_header_id|>"),
        llava=_LLADA_LLAVA,
        note="the grid of blocks is decoding's own: under full attention training knows none",
    ),
}
