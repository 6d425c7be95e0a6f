"""Tiny random models for tests, float64 where equality is claimed."""

import torch

from vlm import BlockGenerationConfig, DiffusionTraits, VLMForBlockDiffusion, VLMProcessor
from vlm.training.build import build_model, build_processor, train_tokenizer
from vlm.training.recipe import ModelRecipe

TEXTS = ["What color is it? red green blue", "How many circles? 0 1 2 3 4 5 6 7 8 9", "A small star is at the top."]
BACKBONES = {
    "qwen3": {"model_type": "qwen3", "head_dim": 8},
    "llama": {"model_type": "llama"},
    "qwen2": {"model_type": "qwen2"},
    "gemma3_text": {"model_type": "gemma3_text", "head_dim": 8, "sliding_window": 6,
                    "layer_types": ["sliding_attention", "full_attention"]},
}  # fmt: skip


def tiny_traits(**traits) -> dict:
    defaults = {"block_size": 4, "trained_block_sizes": (1, 4, 8)}
    if traits.get("context_attention", "causal") == "causal":
        defaults["ar_mode"] = True
    return {**defaults, **traits}


def tiny_model(
    backbone: str = "qwen3", dtype: torch.dtype = torch.float64, seed: int = 0, scale: float = 1.0, **traits
) -> tuple[VLMForBlockDiffusion, VLMProcessor]:
    """A random model with a 2 x 2 feature grid, and its processor; ``scale`` widens the logits."""
    tokenizer = train_tokenizer(TEXTS, 300)
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True}  # fmt: skip
    vision = {"kind": "timm", "model": "vit_tiny_patch16_224", "image_size": 32,
              "options": {"embed_dim": 16, "depth": 1, "num_heads": 2}}  # fmt: skip
    recipe = ModelRecipe(text={**text, **BACKBONES[backbone]}, vision=vision, diffusion=tiny_traits(**traits))
    model = build_model(recipe, tokenizer, seed)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(scale)
    processor = build_processor(model, tokenizer)
    return model.to(dtype).eval(), processor


def greedy(**settings) -> BlockGenerationConfig:
    """Greedy settings without an end token unless one is given."""
    return BlockGenerationConfig(**{"max_new_tokens": 16, **settings})


__all__ = ["BACKBONES", "DiffusionTraits", "greedy", "tiny_model", "tiny_traits"]
