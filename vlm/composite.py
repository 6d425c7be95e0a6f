"""A whole vision-language model of transformers as our decoder: its families, and the features of its pictures.

The composite stands unmodified in ``language_model``: vision tower, projector or merger, text model and head. Its
public functions make the features and the rotary positions; its text model is called as any other decoder is, with our
masks and our cache. So rows keep the one position in the stream that the attention rule and the cache know, and what
else the decoder has to be told of them is looked up by it (`vlm.composite_rows`).
"""

from dataclasses import dataclass, replace
from hashlib import blake2b

import torch
from torch import nn


@dataclass(frozen=True)
class Family:
    """What is particular about a family.

    Attributes:
        image, video: arguments of its ``get_image_features`` and ``get_video_features``, as its processor names them.
        mrope: rotary positions have three axes, by its ``get_rope_index``.
        bidirectional: tokens of one picture see each other.
        mixed: its processor takes images and videos in one conversation.
    """

    image: tuple[str, ...]
    video: tuple[str, ...] = ()
    mrope: bool = False
    bidirectional: bool = False
    mixed: bool = True

    @property
    def traits(self) -> dict[str, str]:
        """Those of `vlm.DiffusionTraits` that follow."""
        return {
            "positions": "mrope" if self.mrope else "1d",
            "media_attention": "bidirectional" if self.bidirectional else "causal",
        }


_QWEN = Family(("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw"), mrope=True)
_IDEFICS = ("pixel_values", "pixel_attention_mask")
COMPOSITES: dict[str, Family] = {
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": _QWEN,
    "llava_onevision": Family(("pixel_values", "image_sizes", "batch_num_images"), ("pixel_values_videos",)),
    "internvl": Family(("pixel_values",)),  # frames come as images
    "idefics3": Family(_IDEFICS),
    "smolvlm": Family(_IDEFICS, mixed=False),  # frames come as images, and in their place
    "gemma3": Family(("pixel_values",), bidirectional=True),
}
TIMES = "second_per_grid_ts"  # of Qwen2.5-VL's videos: its rotary positions count seconds


@dataclass(eq=False)
class Media:
    """The pictures of one conversation.

    Attributes:
        inputs: by the original model's names, what its processor made: pixels, grids, sizes; of a batch of one.
    """

    inputs: dict[str, torch.Tensor]

    @property
    def digest(self) -> bytes:
        """A hash of everything: what one picture becomes may depend on how many others there are."""
        digest = blake2b(digest_size=16)
        for name, value in sorted(self.inputs.items()):
            plain = value.detach().cpu().contiguous()
            plain = plain.float() if plain.is_floating_point() else plain
            digest.update(f"{name}{tuple(plain.shape)}".encode() + plain.numpy().tobytes())
        return digest.digest()


def family_of(config) -> Family | None:
    """The family of a `VLMConfig`; None if its decoder is a language model alone."""
    if config.composite_config is None:
        return None
    family = COMPOSITES[config.composite_config.model_type]
    return replace(family, mrope=family.mrope and config.diffusion["positions"] == "mrope")  # DiffusionVL drops it


_INSIDE = {
    "vision_tower": ("visual", "vision_tower", "vision_model"),
    "projector": ("multi_modal_projector", "connector"),
}


def part_of(model, name: str) -> nn.Module | None:
    """A part of a `VLMForBlockDiffusion` by its name, also inside a composite; None if it has none, or not apart.

    Qwen-VL's merger is a part of its tower.
    """
    own = getattr(model, name)
    if own is not None or model.config.composite_config is None:
        return own
    within = model.language_model.model
    return next((getattr(within, there) for there in _INSIDE[name] if hasattr(within, there)), None)


def kept(inputs: dict, family: Family) -> dict[str, torch.Tensor]:
    """What of a processor's output the model's pictures need."""
    names = {*family.image, *family.video, TIMES}
    return {name: value for name, value in inputs.items() if name in names and isinstance(value, torch.Tensor)}


def encode(model, inputs: dict[str, torch.Tensor]) -> tuple[dict[str, list[torch.Tensor]], dict[str, list]]:
    """Features of pictures, by ``image`` and ``video``: lists of [T, D], and DeepStack's, K times [N, D].

    Args:
        inputs: as in `Media`, of any number of conversations.
    """
    family, composite = family_of(model.config), model.language_model.model
    features, deep = {}, {}
    for kind in ("image", "video"):
        names = getattr(family, kind)
        if not names or names[0] not in inputs:
            continue
        given = {name: _moved(inputs[name], model) for name in names if name in inputs}
        found = getattr(composite, f"get_{kind}_features")(**given, return_dict=True)
        features[kind] = [part.reshape(-1, part.shape[-1]) for part in found.pooler_output]
        deep[kind] = [torch.cat(list(layer)) for layer in getattr(found, "deepstack_features", None) or []]
    return features, deep


def _moved(value: torch.Tensor, model) -> torch.Tensor:
    return value.to(model.device, model.dtype if value.is_floating_point() else None)


def joined_media(parts: list[Media]) -> dict[str, torch.Tensor]:
    """``inputs`` of several conversations as one, in order; where tiles differ in number, padded with zeros.

    Raises:
        ValueError: pictures that were prepared for views of different sizes.
    """
    names = dict.fromkeys(name for part in parts for name in part.inputs)
    found = {name: [part.inputs[name] for part in parts if name in part.inputs] for name in names}
    return {name: torch.cat(_alike(name, values)) for name, values in found.items()}


def _alike(name: str, values: list[torch.Tensor]) -> list[torch.Tensor]:
    """Tensors [N, tiles, ...] with as many tiles each; all others as they are."""
    if values[0].dim() < 4 or len({value.shape[1:] for value in values}) == 1:
        return values
    if len({value.shape[2:] for value in values}) > 1:
        raise ValueError(f"{name} of these pictures cannot stand in one batch: they were prepared in different sizes")
    most = max(value.shape[1] for value in values)
    padded = [value.new_zeros(len(value), most, *value.shape[2:]) for value in values]
    for wide, value in zip(padded, values):
        wide[:, : value.shape[1]] = value
    return padded
