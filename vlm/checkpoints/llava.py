"""LLaVA's code around a language model, told as transformers' LLaVA-OneVision: config, placeholders, pixels, prompt.

LLaDA-V and DiffusionVL's SigLIP variants were trained by that code (LLaVA-NeXT's, with ``anyres_max_N`` tiles and
``spatial_unpad``). Which tower there is, how pixels are prepared and how a conversation is written stands in the code
and in no file of a checkpoint, so it stands here (`whole_families.Llava`); the directory's own chat template takes no
pictures and is not used. Pictures have no token there, but a number that no tokenizer knows: they are given one.
"""

import json
import re
from ast import literal_eval
from typing import Any

import transformers  # whose processors are imported when one is asked for
from transformers import PreTrainedConfig, PreTrainedTokenizerFast, ProcessorMixin

from vlm.checkpoints.chat_format import KNOWN
from vlm.checkpoints.files import CheckpointError
from vlm.checkpoints.vocabulary import Special, choose
from vlm.checkpoints.whole_families import Llava

BICUBIC = 3  # Pillow's number
_ASPECT, _PAIR = re.compile(r"anyres_max_\d+"), re.compile(r"\((\d+)x(\d+)\)")


def as_onevision(source: str, raw: dict, llava: Llava) -> dict:
    """A config of LLaVA's code with LLaVA-OneVision's fields beside its own.

    The tower's last layer is left out there when it is built, and so are its weights: what is read is the layer
    before it, ``mm_vision_select_layer`` -2 of the whole tower.

    Raises:
        CheckpointError: a tower of another width, or pictures that are cut in another way.
    """
    width, aspect = llava.tower["hidden_size"], raw.get("image_aspect_ratio")
    if raw.get("mm_hidden_size", width) != width:
        raise CheckpointError(f"{source}: mm_hidden_size {raw['mm_hidden_size']!r} is not supported, only {width}")
    if not isinstance(aspect, str) or _ASPECT.fullmatch(aspect) is None:
        raise CheckpointError(f"{source}: image_aspect_ratio {aspect!r} is not supported, only 'anyres_max_N'")
    return {
        **raw,
        "vision_config": dict(llava.tower),
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": aspect,
        "image_grid_pinpoints": pinpoints(source, raw.get("image_grid_pinpoints"), llava.tower["image_size"]),
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
    }


def pinpoints(source: str, told: Any, side: int) -> list[list[int]]:
    """Sizes (height, width) that pictures are cut into tiles of, from a list of (width, height) or a range of grids.

    Args:
        told: a list, a list written as text, or ``(1x1),...,(6x6)``: tiles across and down, the first and the last.
        side: pixels of a tile.

    Raises:
        CheckpointError: it is none of these.
    """
    if isinstance(told, str) and (grids := _PAIR.findall(told)):
        (left, top), (right, bottom) = (tuple(map(int, grid)) for grid in (grids[0], grids[-1]))
        return [[side * y, side * x] for x in range(left, right + 1) for y in range(top, bottom + 1)]
    try:
        pairs = literal_eval(told) if isinstance(told, str) else told
        return [[int(height), int(width)] for width, height in pairs]
    except (ValueError, SyntaxError, TypeError) as error:
        raise CheckpointError(f"{source}: image_grid_pinpoints {told!r} is no list of sizes") from error


def placeholders(tokenizer: PreTrainedTokenizerFast, mask: Special, config: PreTrainedConfig) -> dict[str, Special]:
    """Tokens that stand for pictures and for videos, chosen and entered into ``config``."""
    vocab, rows = {**tokenizer.get_vocab(), mask.token: mask.id}, config.text_config.vocab_size
    image = choose("image", vocab, rows, tokenizer, (mask,))
    video = choose("video", vocab, rows, tokenizer, (mask, image))
    config.image_token_index, config.video_token_index = image.id, video.id
    return {"image": image, "video": video}


def llava_processor(
    source: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, llava: Llava
) -> ProcessorMixin:
    """Squares of the tower's size, bicubic, values from -1 to 1; one picture is cut into tiles, of several none is.

    Args:
        tokenizer: with `placeholders`.

    Raises:
        CheckpointError: the tokenizer lacks the tokens of the turns.
    """
    turns, vocab = KNOWN[llava.turns], tokenizer.get_vocab()
    missing = [token for token in turns.needs if token not in vocab]
    if turns.begin and tokenizer.bos_token is None:
        missing.append("a first token")
    if missing:
        raise CheckpointError(f"{source}: the tokenizer lacks {', '.join(missing)}, by which turns are written")
    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    pixels = {"size": {"height": side, "width": side}, "resample": BICUBIC}
    pixels |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(**pixels, image_grid_pinpoints=config.image_grid_pinpoints),
        tokenizer,
        transformers.LlavaOnevisionVideoProcessor(**pixels),
        num_image_tokens=(side // patch) ** 2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=config.vision_aspect_ratio,
        chat_template=prompt_template(llava, tokenizer.bos_token, tokenizer.image_token),
    )


def prompt_template(llava: Llava, begin: str | None, image: str) -> str:
    """A Jinja chat template: the system message first, a line with pictures before the text behind them.

    Args:
        begin: the tokenizer's first token, for turns that start with it.
        image: placeholder.
    """
    turns, quoted = KNOWN[llava.turns], json.dumps
    end = quoted(turns.end + turns.between)

    def header(role: str) -> str:
        return f"{quoted(turns.before)} + {role} + {quoted(turns.after)}"

    every = header("m['role']")
    return (
        (f"{{{{ {quoted(begin)} }}}}" if turns.begin else "")
        + "{% if not messages or messages[0]['role'] != 'system' %}"
        + f"{{{{ {header(quoted(turns.system))} + {quoted(llava.system)} + {end} }}}}{{% endif %}}"
        + f"{{% for m in messages %}}{{{{ {every} }}}}"
        + "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
        + "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}"
        + f"{{{{ {quoted(image)} }}}}"
        + "{% if loop.nextitem is defined and loop.nextitem['type'] == 'image' %}{{ ' ' }}{% else %}{{ '\\n' }}"
        + "{% endif %}{% else %}{{ raise_exception('this model takes images only, no videos') }}{% endif %}"
        + f"{{% endfor %}}{{% endif %}}{{{{ {end} }}}}{{% endfor %}}"
        + f"{{% if add_generation_prompt %}}{{{{ {header(quoted(turns.assistant))} }}}}{{% endif %}}"
    )
