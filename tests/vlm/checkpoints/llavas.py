"""Tiny directories as LLaVA's code writes them (LLaDA-V, DiffusionVL with SigLIP), and what they compute, restated.

The oracle is put together from transformers' parts: a SigLIP tower with all its layers, of which the one before the
last is read, the two-layer projector, the newline, and a causal language model, always run anew over everything.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel, SiglipVisionConfig, SiglipVisionModel

from tests.vlm.checkpoints.composites import QWEN_MARKS, SIGLIP, chat, picture
from tests.vlm.checkpoints.sources import SIZES, bare_tokenizer, language_model
from vlm import VLMForBlockDiffusion
from vlm.answering import build_request
from vlm.checkpoints.load import load
from vlm.checkpoints.whole_families import WHOLE
from vlm.composite_processor import CompositeProcessor
from vlm.generation.request import Request
from vlm.processor import Encoded

PUBLISHED = dict(WHOLE)  # as they are before a test makes their towers small
KINDS = ("llava_llada", "llava_llada_bd3lm", "diffusionvl_qwen")
BLOCK, SIDE, CELLS, LIMIT = 4, SIGLIP["image_size"], 4, 4  # of blocks; pixels and features a side; tiles at most
SPARE = 9  # rows of the table behind the tokenizer's tokens
LLADA_TOKENS = ("<|startoftext|>", "<|endoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
                "<|mdm_mask|>", "<|reserved_token_0|>", "<|reserved_token_1|>")  # fmt: skip
PICTURES = [picture(40, 40, 1), picture(16, 47, 2), picture(30, 14, 3)]  # nine tiles, three and two
GRIDS = [(x, y) for x in (1, 2, 3) for y in (1, 2, 3)]  # tiles across and down
SYSTEM = {
    "qwen": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "llada": "You are a helpful language and vision assistant. You are able to understand the visual content that the "
    "user provides, and assist the user with a variety of tasks using natural language.",
}


@dataclass
class Parts:
    """What a directory's weights belong to."""

    tower: SiglipVisionModel
    projector: nn.Sequential
    newline: torch.Tensor
    language: PreTrainedModel

    @torch.no_grad()
    def features(self, views: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Features [T, D] of a picture of this (width, height) from its views [V, 3, S, S], as LLaVA arranges them."""
        found = self.projector(self.tower(views, output_hidden_states=True).hidden_states[-2])  # [V, 16, D]
        if len(found) == 1:
            return torch.cat([found[0], self.newline[None]])
        across, down = grid_of(size)
        tiles = found[1 : 1 + across * down].reshape(down, across, CELLS, CELLS, -1)
        whole = tiles.permute(0, 2, 1, 3, 4).flatten(0, 1).flatten(1, 2)  # [rows, columns, D]
        rows, columns = whole.shape[:2]
        if size[0] / size[1] > columns / rows:  # the filling lies above and below
            out = (rows - int(round(size[1] * columns / size[0], 7))) // 2
            whole = whole[out : rows - out]
        else:
            out = (columns - int(round(size[0] * rows / size[1], 7))) // 2
            whole = whole[:, out : columns - out]
        times = (whole.shape[0] * whole.shape[1] / (LIMIT * CELLS**2)) ** 0.5
        if times > 1.1:
            shape = [int(side // times) for side in whole.shape[:2]]
            whole = nn.functional.interpolate(whole.permute(2, 0, 1)[None], shape, mode="bilinear")[0].permute(1, 2, 0)
        lines = torch.cat([whole, self.newline.expand(len(whole), 1, -1)], 1)
        return torch.cat([found[0], lines.flatten(0, 1)])

    @torch.no_grad()
    def embeds(self, ids: list[int], image_id: int, features: list[torch.Tensor]) -> torch.Tensor:
        """Embeddings [1, L, D] of tokens, with features where placeholders stand."""
        found = self.language.get_input_embeddings()(torch.tensor([ids]))
        found[0, torch.tensor(ids) == image_id] = torch.cat(features) if features else found.new_empty(0, 32)
        return found

    @torch.no_grad()
    def logits(self, embeds: torch.Tensor, allowed: torch.Tensor, place: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [L, V] of embeddings [1, L, D] under a mask [L, L]."""
        place = torch.arange(len(allowed)) if place is None else place
        given = {"attention_mask": allowed[None, None], "position_ids": place[None], "use_cache": False}
        return self.language(inputs_embeds=embeds, **given).logits[0]


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    """Tiles (across, down) that show most of a picture's pixels and waste least."""

    def merit(grid: tuple[int, int]) -> tuple[int, int]:
        scale = min(side * SIDE / length for side, length in zip(grid, size))
        shown = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        return shown, shown - grid[0] * grid[1] * SIDE**2

    return max(GRIDS, key=merit)


def views_of(image: Image.Image) -> list[Image.Image]:
    """What the tower sees of one picture: all of it as a square, then tiles with black around the picture."""
    (across, down), (width, height) = grid_of(image.size), image.size
    scale = min(across * SIDE / width, down * SIDE / height)
    shown = tuple(min(-int(-side * scale // 1), most * SIDE) for side, most in zip(image.size, (across, down)))
    canvas = Image.new("RGB", (across * SIDE, down * SIDE))
    corner = ((canvas.width - shown[0]) // 2, (canvas.height - shown[1]) // 2)
    canvas.paste(image.resize(shown, Image.Resampling.BICUBIC), corner)
    boxes = [(SIDE * x, SIDE * y, SIDE * (x + 1), SIDE * (y + 1)) for y in range(down) for x in range(across)]
    return [image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), *(canvas.crop(box) for box in boxes)]


def tokenizer_of(kind: str):
    if "llada" not in kind:
        return bare_tokenizer("<|im_start|>", "<|im_end|>", *QWEN_MARKS)
    plain = bare_tokenizer(*LLADA_TOKENS)
    ends = {"eos_token": "<|endoftext|>", "bos_token": "<|startoftext|>"}
    return type(plain)(tokenizer_object=plain.backend_tokenizer, **ends)


def config_of(kind: str, rows: int) -> dict:
    """As the training code leaves it: the language model's fields and LLaVA's, no word of the tower's sizes."""
    blocks = {"enable_bd3lm": True, "bd3lm_block_size": BLOCK, "bd3lm_block_aligned_eos": True}
    pairs = [[SIDE * x, SIDE * y] for x, y in GRIDS]
    return {
        "model_type": kind, "architectures": ["LlavaLLaDAModelLM"], **SIZES, "num_key_value_heads": heads_of(kind),
        "auto_map": {"AutoModelForCausalLM": "modeling.Theirs"}, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "rope_theta": 5e5 if "llada" in kind else 1e4, "rope_scaling": None, "vocab_size": rows, "use_cache": True,
        "tie_word_embeddings": False, **({"attention_bias": False, "pretraining_tp": 1} if "llada" in kind else {}),
        **({} if kind == "llava_llada" else blocks), "image_aspect_ratio": f"anyres_max_{LIMIT}",
        "image_grid_pinpoints": pairs if kind == "llava_llada" else "(1x1),...,(3x3)", "mm_hidden_size": 16,
        "mm_patch_merge_type": "spatial_unpad", "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch", "mm_vision_tower": "model/siglip2-so400m-patch14-384",
        "mm_newline_position": "grid", "mm_use_im_start_end": False, "mm_use_im_patch_token": False,
        "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model", "use_mm_proj": True,
        "tokenizer_model_max_length": 8192, "tokenizer_padding_side": "right", "image_crop_resolution": None,
    }  # fmt: skip


def heads_of(kind: str) -> int:
    return 4 if "llada" in kind else 2


def save(kind: str, path: Path, **changes) -> Parts:
    """Write a directory with the published names; what its weights belong to. ``changes`` are of config.json."""
    path.mkdir(exist_ok=True)
    tokenizer = tokenizer_of(kind)
    rows = len(tokenizer) + SPARE
    parts = parts_of(kind, rows)
    tokenizer.chat_template = "{{ raise_exception('takes no pictures') }}"
    tokenizer.save_pretrained(path)
    save_file(published(parts), path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps({**config_of(kind, rows), **changes}))
    (path / "modeling.py").write_text("raise SystemExit('remote code was run')\n")
    return parts


def parts_of(kind: str, rows: int) -> Parts:
    backbone = "llama" if "llada" in kind else "qwen2"
    fields = {"num_key_value_heads": heads_of(kind), "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
    language = language_model(backbone, rows, **fields)  # seeds
    tower = SiglipVisionModel(SiglipVisionConfig(**{**SIGLIP, "num_hidden_layers": 3, "vision_use_head": False}))
    width = SIZES["hidden_size"]
    projector = nn.Sequential(nn.Linear(SIGLIP["hidden_size"], width), nn.GELU(), nn.Linear(width, width))
    with torch.no_grad():
        for parameter in [*tower.parameters(), *projector.parameters()]:
            parameter += 0.2 * torch.randn_like(parameter)
    return Parts(tower.double().eval(), projector.double(), torch.randn(width, dtype=torch.float64), language)


def published(parts: Parts) -> dict[str, torch.Tensor]:
    """Tensors by the names of LLaVA's classes; the tower's last layer is not among them."""
    tower = {name: t for name, t in parts.tower.state_dict().items() if ".layers.2." not in name}
    named = {
        **{f"model.vision_tower.vision_tower.vision_model.{name}": tensor for name, tensor in tower.items()},
        **{f"model.mm_projector.{name}": tensor for name, tensor in parts.projector.state_dict().items()},
        "model.image_newline": parts.newline,
        **parts.language.state_dict(),
    }
    return {name: tensor.contiguous().clone() for name, tensor in named.items()}


def tiny_towers(patch: pytest.MonkeyPatch) -> None:
    """LLaVA's code fixes the tower and DiffusionVL's the mask's row: make both small enough for a test."""
    for kind in KINDS:
        family = WHOLE[kind]
        llava = replace(family.llava, tower={**SIGLIP, "vision_use_head": False})
        mask = {} if "llada" in kind else {"mask_token_id": len(tokenizer_of(kind)) + 6}
        patch.setitem(WHOLE, kind, replace(family, llava=llava, traits={**family.traits, **mask}))


_MADE: dict[str, tuple[Parts, VLMForBlockDiffusion, CompositeProcessor, Path]] = {}


def make(kind: str, factory) -> tuple[Parts, VLMForBlockDiffusion, CompositeProcessor, Path]:
    """The oracle, what loads from its directory, and the directory: once a session; ``factory`` is pytest's."""
    if kind not in _MADE:
        path = factory.mktemp(kind)
        _MADE[kind] = (save(kind, path), *load(str(path), dtype=torch.float64, device="cpu"), path)
    return _MADE[kind]


def asked(processor: CompositeProcessor, *pictures: Image.Image) -> Request:
    return build_request(processor, chat(*["image"] * len(pictures)), list(pictures))


def conversations(processor: CompositeProcessor, *numbers: int) -> list[Encoded]:
    """Answered questions about pictures of these numbers."""
    answers = ["It is red.", "It is green, and there are 4 circles."]
    return [
        processor.encode([*chat("image"), {"role": "assistant", "content": answer}], [PICTURES[number]])
        for number, answer in zip(numbers, answers)
    ]
