"""A tiny DiffusionGemma checkpoint: transformers' own classes, random weights, a token a character."""

from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    DiffusionGemmaTextConfig,
    Gemma4AudioFeatureExtractor,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4VideoProcessor,
    GemmaTokenizer,
)

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|turn>", "<turn|>", "<|image|>", "<|image>", "<image|>",
           "<|audio|>", "<|audio>", "<audio|>", "<|video|>")  # fmt: skip
CANVAS = 8
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|turn>' + m['role'] + '\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
    "{{ p['text'] if p['type'] == 'text' else '<|image|>' }}{% endfor %}{% endif %}{{ '<turn|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}"
)


def processor() -> Gemma4Processor:
    letters = ["\n", "▁", *map(chr, range(33, 127))]
    vocab = {token: id for id, token in enumerate((*SPECIAL, *letters))}
    pictures = {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"}
    sounds = {"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}
    roles = {**pictures, **sounds, "eot_token": "<turn|>", "sot_token": "<|turn>"}
    tokenizer = GemmaTokenizer(vocab, [], extra_special_tokens=roles)
    sizes = {"patch_size": 2, "max_soft_tokens": 70, "pooling_kernel_size": 3}
    parts = (Gemma4AudioFeatureExtractor(), Gemma4ImageProcessor(**sizes), tokenizer, Gemma4VideoProcessor(**sizes))
    return Gemma4Processor(*parts, chat_template=TEMPLATE)


def model(tokenizer, **text) -> DiffusionGemmaForBlockDiffusion:
    """Random weights; ``text`` changes fields of its text config."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 8, "num_experts": 4, "top_k_experts": 2,
             "moe_intermediate_size": 16, "sliding_window": 64, "max_position_embeddings": 512,
             "layer_types": ["sliding_attention", "full_attention"], "vocab_size": len(tokenizer)}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
              "num_key_value_heads": 2, "head_dim": 8, "patch_size": 2, "position_embedding_size": 256}  # fmt: skip
    config = DiffusionGemmaConfig(
        text_config=DiffusionGemmaTextConfig(**{**sizes, **text}),
        vision_config=AutoConfig.for_model("gemma4_vision", **vision),
        canvas_length=CANVAS,
        **{
            f"{name}_id": tokenizer.convert_tokens_to_ids(getattr(tokenizer, name))
            for name in ("image_token", "boi_token", "eoi_token")
        },
    )
    torch.manual_seed(0)
    made = DiffusionGemmaForBlockDiffusion(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return made.eval()


def save(path: Path, **text) -> None:
    """Write the directory; answers end at ``<eos>`` and ``<turn|>``."""
    made = processor()
    weights = model(made.tokenizer, **text)
    weights.generation_config.eos_token_id, weights.generation_config.pad_token_id = 1, 0
    weights.save_pretrained(path)
    made.save_pretrained(path)
