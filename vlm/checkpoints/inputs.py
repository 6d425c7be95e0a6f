"""What a checkpoint reads, told without its weights: tokenizer, turns and pictures, and whether they fit the model.

A processor and a model that speak of different placeholders, patches or tiles load without a word; pictures are then
overlooked, or a forward pass fails somewhere inside. So the two are compared field by field, before anything is asked.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from vision_encoders import VisionConfig
from vlm.checkpoints.chat_format import turns_of
from vlm.checkpoints.composite import config_around
from vlm.checkpoints.files import UNUSABLE, CheckpointError, one_line, read_json
from vlm.checkpoints.foreign import load_tokenizer
from vlm.composite import COMPOSITES
from vlm.composite_processor import ORIGINAL, CompositeProcessor, original_processor, processor_of
from vlm.config import DiffusionTraits, VLMConfig
from vlm.processor import VLMProcessor

SIZES = ((448, 448), (1280, 720))  # pictures whose tokens are told, (width, height)
SETTINGS = ("preprocessor_config.json", "processor_config.json")
VIDEO_SETTINGS = ("video_preprocessor_config.json", *SETTINGS)
DEFAULTS = "inferred: the class's defaults"
ABSENT = object()


@dataclass(frozen=True)
class Inputs:
    """What a checkpoint reads.

    Attributes:
        read: by name, what there is and where it was found; what was ``inferred`` says so.
        missing: what is not there or not usable, a line each; none of it keeps the checkpoint from being loaded.
    """

    read: dict[str, tuple[str, str]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def own_processor(source: str, config: VLMConfig) -> VLMProcessor | CompositeProcessor:
    """The processor of a directory of ours; CheckpointError if it is not there, or is not the model's."""
    processor = processor_of(source, config)
    if processor.vision_config != config.vision_config:
        raise CheckpointError(f"{source}: processor_config.json is missing, or of another vision encoder")
    mask, known = config.traits.mask_token_id, processor.tokenizer.mask_token_id
    if mask != known:
        raise CheckpointError(f"{source}: the mask token is {mask} in config.json but {known} in the tokenizer")
    return processor


def refuse_contradictions(source: str, config: VLMConfig, processor: VLMProcessor | CompositeProcessor) -> None:
    """CheckpointError that names all in which the processor and the model's config differ, unless nothing does."""
    found = contradictions(config, processor)
    if found:
        raise CheckpointError(f"{source}: processor and model do not fit: {'; '.join(found)}")


def contradictions(config: VLMConfig, processor: VLMProcessor | CompositeProcessor) -> list[str]:
    """What the processor has otherwise than the model's config, a phrase each."""
    told, own = getattr(processor, "original", processor), config.composite_config
    kind = None if own is None else own.model_type
    wanted = {_PLACEHOLDERS.get(kind, "image_token_id"): config.image_token_id}
    if config.video_token_id >= 0 and getattr(told, "video_processor", told) is not None:
        wanted["video_token_id"] = config.video_token_id
    wanted |= _FITS[kind](own) if kind in _FITS else {}
    found = {path: _at(told, path) for path in wanted}
    return [
        f"{path} is {_short(found[path])}, the model's {_short(value)}"
        for path, value in wanted.items()
        if found[path] is not ABSENT and _plain(found[path]) != _plain(value)
    ]


def _qwen(config: PreTrainedConfig) -> dict[str, Any]:
    vision = config.vision_config
    sizes = {"patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size}
    sizes["temporal_patch_size"] = vision.temporal_patch_size
    return {f"{kind}_processor.{name}": size for kind in ("image", "video") for name, size in sizes.items()}


def _onevision(config: PreTrainedConfig) -> dict[str, Any]:
    vision, strategy = config.vision_config, config.vision_feature_select_strategy
    wanted = {"vision_feature_select_strategy": strategy, "image_processor.size.height": vision.image_size}
    wanted["image_processor.image_grid_pinpoints"] = config.image_grid_pinpoints
    return wanted | ({"num_image_tokens": (vision.image_size // vision.patch_size) ** 2} if strategy == "full" else {})


def _internvl(config: PreTrainedConfig) -> dict[str, Any]:
    side = config.vision_config.image_size[0]
    return {"image_seq_length": config.image_seq_length, "image_processor.size.height": side}


def _idefics(config: PreTrainedConfig) -> dict[str, Any]:
    vision = config.vision_config
    tokens = (vision.image_size // vision.patch_size) ** 2 // config.scale_factor**2
    return {"image_seq_len": tokens, "image_processor.max_image_size.longest_edge": vision.image_size}


def _gemma(config: PreTrainedConfig) -> dict[str, Any]:
    side = config.vision_config.image_size
    return {"image_seq_length": config.mm_tokens_per_image, "image_processor.size.height": side}


# By family of `vlm.composite`: what its processor must say for a config, by path.
_FITS: dict[str, Callable[[PreTrainedConfig], dict[str, Any]]] = {
    "qwen2_vl": _qwen,
    "qwen2_5_vl": _qwen,
    "qwen3_vl": _qwen,
    "llava_onevision": _onevision,
    "internvl": _internvl,
    "idefics3": _idefics,
    "smolvlm": _idefics,
    "gemma3": _gemma,
}
_PLACEHOLDERS = {"gemma3": "tokenizer.image_token_id"}  # its processor's own name is for what opens a picture


def _at(found: Any, path: str) -> Any:
    """The attribute, or entry, at the end of a dotted path; ABSENT if there is none of that name."""
    for name in path.split("."):
        found = found.get(name, ABSENT) if isinstance(found, dict) else getattr(found, name, ABSENT)
    return found


def _plain(value: Any) -> Any:
    """Tuples as lists, so that settings compare as they stand in files."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    text = str(_plain(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


def inputs_of(
    source: str, config: VLMConfig, processor: VLMProcessor | CompositeProcessor, settings: str | None = None
) -> Inputs:
    """What a model with pictures, or one of ours, reads.

    Args:
        settings: where those of pictures come from, if not from the directory's files.
    """
    whole = config.composite_config is not None
    folder = Path(source) / ORIGINAL if whole and (Path(source) / ORIGINAL).is_dir() else Path(source)
    read = {"tokenizer": (f"{len(processor.tokenizer)} tokens", "tokenizer.json")}
    read |= _composite_parts(folder, config, processor, settings) if whole else _own_parts(config, processor)
    missing = []
    template = settings or _template_file(folder)
    if processor.chat_template is None:
        missing.append("no chat template: no conversation can be written")
    else:
        read["chat template"] = (f"{len(processor.chat_template)} characters", template or "tokenizer.json")
        if whole or config.vision_config:
            counts, reason = picture_tokens(processor)
            read |= counts
            missing += reason
    return Inputs(read, tuple(missing))


def text_inputs(source: str, tokenizer: PreTrainedTokenizerFast) -> Inputs:
    """What a language model of another project reads, whose turns are written by our own template.

    Raises:
        ValueError: nothing could end an answer.
    """
    turns, _ = turns_of(tokenizer)
    read = {"tokenizer": (f"{len(tokenizer)} tokens", "tokenizer.json")}
    read["chat template"] = (f"ours, {turns} turns", "inferred from the tokenizer's special tokens")
    return Inputs(read)


def autoregressive_inputs(source: str, config: PreTrainedConfig) -> Inputs:
    """What a model reads that has to be converted first; what would keep it from that is told, and not raised."""
    try:
        tokenizer = load_tokenizer(source)
        if config.model_type not in COMPOSITES:
            return text_inputs(source, tokenizer)
        ours = config_around(config, DiffusionTraits(**COMPOSITES[config.model_type].traits), {})
        processor = CompositeProcessor(tokenizer, original_processor(source), ours)
        found = inputs_of(source, ours, processor)
        return replace(found, missing=(*found.missing, *contradictions(ours, processor)))
    except UNUSABLE as error:
        return Inputs(missing=(one_line(error),))


def picture_tokens(processor: VLMProcessor | CompositeProcessor) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Tokens that pictures of `SIZES` take, by asking the processor; and why it cannot say, if it cannot."""
    question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
    found = {}
    for width, height in SIZES:
        try:
            ids, _ = processor.tokens(question, [(width, height)], add_generation_prompt=True)
        except (TemplateError, *UNUSABLE) as error:
            return found, [f"a picture cannot be put into a conversation ({one_line(error)})"]
        count = int((ids == processor.image_token_id).sum())
        found[f"image {width} x {height}"] = (f"{count} tokens", "asked of the processor")
    return found, []


def _own_parts(config: VLMConfig, processor: VLMProcessor) -> dict[str, tuple[str, str]]:
    if not config.vision_config:
        return {"vision": ("none: text only", "config.json")}
    vision = VisionConfig.from_dict(config.vision_config)
    name = " ".join(part for part in (vision.kind, vision.model) if part)
    said = f"{name}, {vision.image_size} x {vision.image_size} pixels, {vision.fit}"
    frame = f"{processor.tokens_per_frame} tokens a frame"
    return {"vision": (said, "config.json"), "video": (frame, "processor_config.json")}


def _composite_parts(
    folder: Path, config: VLMConfig, processor: CompositeProcessor, settings: str | None
) -> dict[str, tuple[str, str]]:
    """The tower, the classes of the original processor, and the file that each has its settings from."""
    original, vision = processor.original, config.composite_config.vision_config
    sizes = [f"{name} {getattr(vision, name)}" for name in ("image_size", "patch_size") if hasattr(vision, name)]
    own = "processor_config.json" if (folder / "processor_config.json").is_file() else DEFAULTS
    read = {"vision": (", ".join([vision.model_type, *sizes]), settings or "config.json")}
    read["processor"] = (type(original).__name__, settings or own)
    for kind, files in (("image", SETTINGS), ("video", VIDEO_SETTINGS)):
        part = getattr(original, f"{kind}_processor", None)
        if part is not None and (kind == "image" or config.video_token_id >= 0):
            file = next((name for name in files if _has(folder / name, f"{kind}_processor")), None)
            found = file if file in (files[0], SETTINGS[1]) else f"inferred: from {file}" if file else DEFAULTS
            read[f"{kind} settings"] = (_settings(part), settings or found)
    return read


def _has(file: Path, part: str) -> bool:
    """Whether a file has the settings of a part: one of its own has, transformers' joint one may."""
    found = read_json(file)
    return isinstance(found, dict) and (file.name != "processor_config.json" or part in found)


def _settings(part: Any) -> str:
    """A processor's class, and the sizes that decide how many tokens a picture takes."""
    told = {name: getattr(part, name, None) for name in ("size", "max_image_size", "patch_size", "merge_size")}
    said = [f"{name} {_sides(value)}" for name, value in told.items() if value is not None]
    return ", ".join([type(part).__name__, *said])


def _sides(size: Any) -> str:
    """A size in numbers; transformers' own kind has every name that a size could have, most of them empty."""
    named = size if isinstance(size, dict) else vars(size) if hasattr(size, "shortest_edge") else None
    return str(size) if named is None else " ".join(f"{k} {v}" for k, v in named.items() if v is not None)


def _template_file(folder: Path) -> str | None:
    """The file that a chat template stands in; None if it is in none of the usual ones."""
    if (folder / "chat_template.jinja").is_file():
        return "chat_template.jinja"
    files = ("chat_template.json", "processor_config.json", "tokenizer_config.json")
    return next((name for name in files if (read_json(folder / name) or {}).get("chat_template")), None)
