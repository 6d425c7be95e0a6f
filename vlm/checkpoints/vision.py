"""The vision encoder that a conversion puts before a language model: ``KIND:NAME`` from the command line.

``timm:NAME`` is an architecture with random weights, or with timm's own where they are to be had; for the other kinds
NAME is a directory with the tower's weights, whose architecture and normalisation are then its own.
"""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import timm

from vision_encoders import VisionConfig, VisionEncoder, build_vision_encoder
from vision_encoders.config import Kind, nearest
from vlm.checkpoints.files import CheckpointError, read_config, read_json, read_tensors


def encoder_of(spec: str, image_size: int | None = None, pretrained: bool = False) -> VisionEncoder:
    """The encoder that ``KIND:NAME`` names.

    Args:
        image_size: pixels a side; None takes what it was trained for.
        pretrained: of timm's kinds: fetch timm's weights.

    Raises:
        ValueError: an unknown kind or architecture, an impossible size, or a directory without a tower's weights.
    """
    kind, colon, name = spec.partition(":")
    if not colon or not name:
        raise ValueError(f"--vision {spec!r} must be KIND:NAME, such as timm:vit_base_patch16_224 or siglip:DIR")
    if kind not in get_args(Kind):
        raise ValueError(f"unknown vision kind {kind!r}; {nearest(kind, get_args(Kind))}")
    if kind == "timm":
        return build_vision_encoder(_timm_config(name, image_size), pretrained)
    return build_vision_encoder(_directory_config(kind, name, image_size), name)


def _timm_config(name: str, image_size: int | None) -> VisionConfig:
    known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if known is None:
        return VisionConfig("timm", name, image_size or 224)
    size = image_size or known.input_size[-1]
    resample = known.interpolation if known.interpolation in ("bilinear", "bicubic") else "bicubic"
    return VisionConfig("timm", name, size, mean=tuple(known.mean), std=tuple(known.std), resample=resample)


def _directory_config(kind: str, directory: str, image_size: int | None) -> VisionConfig:
    if not Path(directory).is_dir():
        raise CheckpointError(f"{directory}: no such directory")
    raw = read_config(directory)
    read_tensors(directory)  # refuses pickles before transformers would open one
    own = raw.get("vision_config", raw)
    config = VisionConfig(kind, "", image_size or own.get("image_size") or 224)
    pixels = read_json(Path(directory) / "preprocessor_config.json") or {}
    given = {to: tuple(pixels[name]) for name, to in (("image_mean", "mean"), ("image_std", "std")) if name in pixels}
    return replace(config, **given)
