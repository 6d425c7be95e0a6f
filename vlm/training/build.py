"""A model and its processor from nothing: a tokenizer trained on the data's own text, then random weights.

The tokenizer is byte-level BPE, so any text is representable; digits stay single, so that numbers are read digit by
digit; words that are only ever read off pictures are left out of its training, so that they are spelled in pieces.
"""

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, PreTrainedTokenizerFast

from vision_encoders import VisionConfig
from vlm.config import DiffusionTraits, VLMConfig
from vlm.generation.config import BlockGenerationConfig
from vlm.model import VLMForBlockDiffusion
from vlm.processor import VLMProcessor
from vlm.projector import pooled_count
from vlm.training.recipe import ModelRecipe

SPECIAL = {
    "pad_token": "<|pad|>",
    "bos_token": "<|begin|>",
    "eos_token": "<|end|>",
    "mask_token": "<|mask|>",
    "image_token": "<|image|>",
    "video_token": "<|video|>",
}
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")

# `generation` marks what the assistant wrote, its end of turn included: that is what training supervises.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{{ eos_token }}"
    "{% endgeneration %}"
    "{% else %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}{{ '<|' + part['type'] + '|>' }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ eos_token }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the special tokens and chat template of this project."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL.values(), *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    names = {key: value for key, value in SPECIAL.items() if key not in ("image_token", "video_token")}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=CHAT_TEMPLATE,
        extra_special_tokens={"image_token": SPECIAL["image_token"], "video_token": SPECIAL["video_token"]},
        clean_up_tokenization_spaces=False,
        **names,
    )


def build_model(recipe: ModelRecipe, tokenizer: PreTrainedTokenizerFast, seed: int) -> VLMForBlockDiffusion:
    """Random weights, reproducible by seed, with the special tokens' ids written into the config.

    Raises:
        ValueError: for a value that no model could have, naming it.
    """
    if "model_type" not in recipe.text:
        raise ValueError("model.text needs model_type, the name of a transformers architecture")
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL.items()}
    text = AutoConfig.for_model(
        **recipe.text,
        vocab_size=len(tokenizer),
        pad_token_id=ids["pad_token"],
        bos_token_id=ids["bos_token"],
        eos_token_id=ids["eos_token"],
    )
    config = VLMConfig(
        text_config=text,
        vision_config=VisionConfig.from_dict(recipe.vision).to_dict(),
        projector_hidden_size=recipe.projector_hidden_size,
        frame_pool=recipe.frame_pool,
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        diffusion=DiffusionTraits(**{**recipe.diffusion, "mask_token_id": ids["mask_token"]}),
    )
    torch.manual_seed(seed)
    model = VLMForBlockDiffusion(config)
    model.generation_config = BlockGenerationConfig(
        bos_token_id=ids["bos_token"],
        eos_token_id=ids["eos_token"],
        pad_token_id=ids["pad_token"],
        suppress_tokens=[ids[name] for name in ("mask_token", "image_token", "video_token", "pad_token", "bos_token")],
        block_size=config.traits.block_size,
    )
    return model


def build_processor(model: VLMForBlockDiffusion, tokenizer: PreTrainedTokenizerFast) -> VLMProcessor:
    """The processor that expands placeholders to as many tokens as ``model`` gives features."""
    return VLMProcessor(
        tokenizer=tokenizer,
        vision_config=model.config.vision_config,
        tokens_per_image=model.vision_tower.num_tokens,
        tokens_per_frame=pooled_count(model.vision_tower.grid, model.config.frame_pool),
        chat_template=tokenizer.chat_template,
    )
