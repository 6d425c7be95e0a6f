"""Tiny vision-language models of transformers' own classes, with random weights, their processors and pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin
from transformers.models.smolvlm import processing_smolvlm

from tests.vlm.checkpoints.sources import SIZES, bare_tokenizer
from tests.vlm.tiny import greedy
from vlm import VLMForBlockDiffusion
from vlm.answering import build_request
from vlm.checkpoints.convert import Choices, convert
from vlm.checkpoints.load import load
from vlm.composite_processor import CompositeProcessor
from vlm.generation.generate import answer
from vlm.generation.request import Request

QWEN_MARKS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_SIZES = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2,
              "size": {"shortest_edge": 64, "longest_edge": 400}}  # fmt: skip
SIGLIP = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 16, "patch_size": 4}  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}IMAGE{% elif p['type'] == 'video' %}VIDEO{% else %}{{ p['text'] }}{% endif %}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Tiny:
    """A family at its smallest.

    Attributes:
        tokens: special tokens of its tokenizer; ``roles`` names some of them.
        text, vision, fields: of its config; a name of a token in ``fields`` stands for its id.
        image, video: placeholders in a chat; no ``video``: it takes none.
        parts: classes and settings of its processor: image, video, and the processor itself.
    """

    tokens: tuple[str, ...]
    text: dict
    vision: dict
    fields: dict
    image: str
    video: str | None
    parts: tuple
    roles: dict | None = None


def _qwen(name: str, text: dict, vision: dict, processor: str, video: str) -> Tiny:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    fields = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
              "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}  # fmt: skip
    start, end, image, clip = QWEN_MARKS
    placeholder = f"{start}{clip}{end}" if name != "qwen3_vl" else clip
    parts = (("Qwen2VLImageProcessor", QWEN_SIZES), (video, QWEN_SIZES), (processor, {}))
    text = {"rope_parameters": {**rope, **text.pop("rope", {})}, **text}
    return Tiny(QWEN_MARKS, text, vision, fields, f"{start}{image}{end}", placeholder, parts)


_IDEFICS_TOKENS = ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>",
                   *(f"<row_{r}_col_{c}>" for r in range(1, 4) for c in range(1, 4)))  # fmt: skip
_IDEFICS_SIZES = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
_VIDEO_SIZES = {"size": {"height": 16, "width": 16}}
_EYES = {"hidden_size": 16, "num_attention_heads": 2}
TINY: dict[str, Tiny] = {
    "qwen2_5_vl": _qwen(
        "qwen2_5_vl", {},
        {**_EYES, "depth": 2, "num_heads": 2, "patch_size": 4, "out_hidden_size": 32, "intermediate_size": 24,
         "window_size": 16, "fullatt_block_indexes": [1]},
        "Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor",
    ),
    "llava_onevision": Tiny(
        ("<image>", "<video>"), {"model_type": "qwen2"},
        {"model_type": "siglip_vision_model", **SIGLIP, "vision_use_head": False},
        {"image_token_id": "<image>", "video_token_id": "<video>",
         "image_grid_pinpoints": [[16, 16], [16, 32], [32, 16], [32, 32]]},
        "<image>", "<video>",
        (("LlavaOnevisionImageProcessor",
          {"size": {"height": 16, "width": 16}, "image_grid_pinpoints": [[16, 16], [16, 32], [32, 16], [32, 32]]}),
         ("LlavaOnevisionVideoProcessor", _VIDEO_SIZES),
         ("LlavaOnevisionProcessor", {"num_image_tokens": 16, "vision_feature_select_strategy": "full"})),
    ),
    "qwen2_vl": _qwen(
        "qwen2_vl", {}, {"depth": 2, "num_heads": 2, "patch_size": 4, "embed_dim": 16, "hidden_size": 32},
        "Qwen2VLProcessor", "Qwen2VLVideoProcessor",
    ),
    "qwen3_vl": _qwen(
        "qwen3_vl", {"head_dim": 8, "rope": {"mrope_interleaved": True}},
        {"depth": 3, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 4,
         "out_hidden_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        "Qwen3VLProcessor", "Qwen3VLVideoProcessor",
    ),
    "internvl": Tiny(
        ("<IMG_CONTEXT>", "<img>", "</img>", "<video>"), {"model_type": "qwen2"},
        {**SIGLIP, "image_size": [16, 16], "patch_size": [4, 4]},
        {"image_token_id": "<IMG_CONTEXT>", "image_seq_length": 4}, "<IMG_CONTEXT>", "<video>",
        (("GotOcr2ImageProcessor", {**_VIDEO_SIZES, "crop_to_patches": True, "min_patches": 1, "max_patches": 4}),
         ("InternVLVideoProcessor", _VIDEO_SIZES), ("InternVLProcessor", {"image_seq_length": 4})),
        {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
         "video_token": "<video>"},
    ),
    "idefics3": Tiny(
        _IDEFICS_TOKENS, {"model_type": "llama", "pad_token_id": 0}, SIGLIP,
        {"image_token_id": "<image>", "scale_factor": 2}, "<image>", None,
        (("Idefics3ImageProcessor", _IDEFICS_SIZES), None, ("Idefics3Processor", {"image_seq_len": 4})),
    ),
    "smolvlm": Tiny(
        (*_IDEFICS_TOKENS, "<video>"), {"model_type": "llama", "pad_token_id": 0}, SIGLIP,
        {"image_token_id": "<image>", "scale_factor": 2}, "<image>", "<video>",
        (("SmolVLMImageProcessor", _IDEFICS_SIZES),
         ("SmolVLMVideoProcessor", {**_IDEFICS_SIZES, "max_image_size": {"longest_edge": 16}}),
         ("SmolVLMProcessor", {"image_seq_len": 4})),
    ),
    "gemma3": Tiny(
        ("<image_soft_token>", "<start_of_image>", "<end_of_image>"),
        {"model_type": "gemma3_text", "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8,
         "layer_types": ["sliding_attention", "full_attention"]},
        {"model_type": "siglip_vision_model", **SIGLIP, "vision_use_head": False},
        {"image_token_id": "<image_soft_token>", "boi_token_id": "<start_of_image>",
         "eoi_token_id": "<end_of_image>", "mm_tokens_per_image": 4},
        "<start_of_image>", None,
        (("Gemma3ImageProcessor", _VIDEO_SIZES), None, ("Gemma3Processor", {"image_seq_length": 4})),
        {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
    ),
}  # fmt: skip


# What is shown in a conversation, and which family takes it; no processor of SmolVLM takes both kinds at once.
KINDS = [("image",), ("image", "image"), ("video",), ("image", "video")]
SHOWN = [
    (family, kinds) for family in TINY for kinds in KINDS
    if "video" not in kinds or (TINY[family].video and (family, len(kinds)) != ("smolvlm", 2))
]  # fmt: skip
NEW = 12  # tokens of an answer

if not processing_smolvlm.num2words:  # a package that words how many frames a video has, and need not be here
    processing_smolvlm.num2words = str


def tokenizer_of(family: str):
    tokenizer = bare_tokenizer("<|im_start|>", "<|im_end|>", *TINY[family].tokens)
    roles = TINY[family].roles or {}
    return type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>", bos_token="<|begin|>",
        extra_special_tokens=roles,
    )  # fmt: skip


def processor_of(family: str) -> ProcessorMixin:
    """The original's processor, with images and videos of a few patches."""
    tiny = TINY[family]
    template = TEMPLATE.replace("IMAGE", tiny.image).replace("VIDEO", tiny.video or "no video")
    (image, image_fields), video, (name, fields) = tiny.parts
    parts = {"image_processor": getattr(transformers, image)(**image_fields), "tokenizer": tokenizer_of(family)}
    if video is not None:
        parts["video_processor"] = getattr(transformers, video[0])(**video[1])
    return getattr(transformers, name)(**parts, **fields, chat_template=template)


def composite(family: str, spare: int = 9, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """Random weights, biases and norms random too; ``spare`` rows more than the tokenizer has tokens."""
    tiny, tokenizer = TINY[family], tokenizer_of(family)
    ids = tokenizer.get_vocab()
    text = {**SIZES, **tiny.text, "vocab_size": len(tokenizer) + spare, "bos_token_id": 1, "eos_token_id": 2}
    fields = {name: ids.get(value, value) if isinstance(value, str) else value for name, value in tiny.fields.items()}
    config = AutoConfig.for_model(family, text_config=text, vision_config=tiny.vision, **fields)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model.to(dtype).eval()


def save(family: str, path: Path, **options) -> PreTrainedModel:
    """A directory as transformers writes it, and the original read back from it."""
    model = composite(family, **options)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(path)
    processor_of(family).save_pretrained(path)
    return AutoModelForImageTextToText.from_pretrained(path, dtype=model.dtype).eval()


class Made(NamedTuple):
    """An original, and the checkpoint that `convert` wrote of it, loaded again; the original lies in ``source``."""

    stock: PreTrainedModel
    model: VLMForBlockDiffusion
    processor: CompositeProcessor
    path: Path


_MADE: dict[str, Made] = {}


def made(family: str, factory) -> Made:
    """Once a session; ``factory`` is pytest's ``tmp_path_factory``."""
    if family not in _MADE:
        _MADE[family] = _make(family, factory)
    return _MADE[family]


def _make(family: str, factory) -> Made:
    path = factory.mktemp(family)
    stock = save(family, path / "source")
    convert(str(path / "source"), str(path / "ours"), Choices(block_size=4))
    return Made(stock, *load(str(path / "ours"), dtype=torch.float64, device="cpu"), path / "ours")


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def chat(*kinds: str, text: str = "What color is it?") -> list[dict]:
    parts = [{"type": kind} for kind in kinds] + [{"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def shown(*kinds: str) -> list:
    """An image of another shape for every ``image``, four frames for every ``video``."""
    sizes = [(24, 16), (16, 40), (20, 20)]
    return [
        picture(*sizes[number % 3], number) if kind == "image" else [picture(16, 16, 9 + i) for i in range(4)]
        for number, kind in enumerate(kinds)
    ]


def stock_inputs(family: str, kinds: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """What the original's own way from a chat to inputs makes: its chat template and processor in one call."""
    media = iter(shown(*kinds))
    messages = chat(*kinds)
    for part in messages[0]["content"]:
        if part["type"] == "image":
            part["image"] = next(media)
        elif part["type"] == "video":
            part["video"] = np.stack([np.asarray(frame) for frame in next(media)])
    found = processor_of(family).apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs={"do_sample_frames": False} if "video" in kinds else None,
    )  # fmt: skip
    tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    return {name: t.double() if t.is_floating_point() else t for name, t in tensors.items()}


def request_of(processor, kinds: tuple[str, ...], **chat_options) -> Request:
    return build_request(processor, chat(*kinds, **chat_options), shown(*kinds))


def decoded(model, requests: list[Request], store=None, **settings) -> list[list[int]]:
    config = greedy(**{**model.generation_config.to_dict(), "eos_token_id": None, "max_new_tokens": NEW, **settings})
    return [state.generated for state in answer(model, requests, config, store=store)]
