"""One interface over all vision encoders: pixels [N, 3, H, W] → features [N, T, D], row-major over a grid of patches.

Prefix tokens (class token, registers) are dropped, so feature t always stands for the cell (t // w, t % w). The shape
of a timm network's output is read from a forward on the meta device: it costs no arithmetic and cannot disagree with
the network. Squares of the config's size are what any encoder takes; other sizes need ``fit="dynamic"``, which is
refused where the network takes one size only.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from math import isqrt
from typing import Any

import timm
import torch
import transformers
from torch import Tensor, nn

from vision_encoders.config import VisionConfig, nearest

# kind → (config class, model class) in transformers.
_TRANSFORMERS = {
    "siglip": ("SiglipVisionConfig", "SiglipVisionModel"),
    "siglip2": ("Siglip2VisionConfig", "Siglip2VisionModel"),
    "clip": ("CLIPVisionConfig", "CLIPVisionModel"),
}


class VisionEncoder(nn.Module, ABC):
    """Turns images into a grid of feature vectors.

    Attributes:
        config: what it was built from; rebuilding from it gives the same parameter names and shapes.
        hidden_size: D, width of a feature.
        grid: (h, w), rows and columns of a square image's features.
        num_tokens: T = h·w, features per square image.
    """

    config: VisionConfig
    hidden_size: int
    grid: tuple[int, int]

    @property
    def num_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised float pixels [N, 3, S, S] → features [N, T, D]; under ``dynamic`` images of any whole patches."""


class TimmEncoder(VisionEncoder):
    """Any timm backbone: a ViT's patch tokens, or a CNN's last feature map read row by row."""

    def __init__(self, config: VisionConfig, pretrained: bool = False) -> None:
        super().__init__()
        self.config = config
        self.backbone = _create_timm(config, pretrained)
        self._read_shape()

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.backbone.forward_features(pixels)
        if not isinstance(features, Tensor):
            raise ValueError(f"{self.config.model} gives several feature tensors, not one grid")
        if features.ndim == 3:  # [N, prefix + T, D]
            return features[:, getattr(self.backbone, "num_prefix_tokens", 0) :]
        if self._channels_first(features):
            features = features.permute(0, 2, 3, 1)
        return features.flatten(1, 2)  # [N, h, w, D] → [N, T, D]

    def _channels_first(self, features: Tensor) -> bool:
        """Whether a map is [N, D, h, w]. timm names the layout for some families; the width tells for the others."""
        layout = getattr(self.backbone, "output_fmt", None)
        return features.shape[1] == self.backbone.num_features if layout is None else layout == "NCHW"

    def _read_shape(self) -> None:
        """Set ``hidden_size`` and ``grid`` from a forward without arithmetic.

        Raises:
            ValueError: the network refuses the image size, or gives no feature per cell of a square grid.
        """
        size, name = self.config.image_size, self.config.model
        tokens, self.hidden_size = self._shape_of(size, size)
        side = isqrt(tokens)
        if side * side != tokens:
            raise ValueError(f"{name} gives {tokens} features for {size} pixels: no square grid of patches")
        self.grid = (side, side)
        if self.config.fit == "dynamic":
            self._check_any_size(side, size // side)

    def _check_any_size(self, side: int, stride: int) -> None:
        if self.config.image_size % side:
            raise ValueError(f"fit 'dynamic' needs an image_size of whole patches, not {self.config.image_size}")
        try:
            found = self._shape_of(side * stride, (side + 1) * stride)[0]
        except ValueError as error:
            raise ValueError(f"fit 'dynamic': {error} (a ViT of timm's needs the option dynamic_img_size)") from error
        if found != side * (side + 1):
            raise ValueError(
                f"fit 'dynamic': {self.config.model} gives {found} features for {side} x {side + 1} patches"
            )

    def _shape_of(self, height: int, width: int) -> tuple[int, int]:
        """(features, their width) of an image."""
        tensors = {key: t.to("meta") for key, t in [*self.named_parameters(), *self.named_buffers()]}
        blank = torch.zeros(1, 3, height, width, device="meta", dtype=next(self.parameters()).dtype)
        try:
            with torch.no_grad(), _evaluating(self):
                features = torch.func.functional_call(self, tensors, (blank,))  # [1, T, D]
        except (AssertionError, RuntimeError) as error:
            size = f"{width}" if width == height else f"{width} x {height}"
            raise ValueError(f"{self.config.model} cannot take images of {size} pixels: {error}") from error
        return features.shape[1], features.shape[2]


class TransformersEncoder(VisionEncoder):
    """The vision tower of a SigLIP, SigLIP2 (NaFlex) or CLIP model: ``hidden_states[feature_layer]``."""

    def __init__(self, config: VisionConfig, pretrained: str | None = None) -> None:
        super().__init__()
        self.backbone = _create_transformers(config, pretrained)
        # The tower's own fields, so that the config rebuilds it where the pretrained directory is absent.
        self.config = dataclasses.replace(config, options=_own_fields(self.backbone.config))
        layers = self.backbone.config.num_hidden_layers
        if not -layers - 1 <= config.feature_layer <= layers:
            raise ValueError(f"vision feature_layer {config.feature_layer} of an encoder with {layers} layers")
        self.hidden_size = self.backbone.config.hidden_size
        self.grid = (config.image_size // self.backbone.config.patch_size,) * 2

    def forward(self, pixels: Tensor) -> Tensor:
        inputs = self._patches(pixels) if self.config.kind == "siglip2" else self._image(pixels)
        states = self.backbone(**inputs, output_hidden_states=True).hidden_states
        features = states[self.config.feature_layer]  # [N, (1 +) T, D]
        return features[:, 1:] if self.config.kind == "clip" else features

    def _image(self, pixels: Tensor) -> dict[str, Any]:
        table = (self.backbone.config.image_size,) * 2
        return {"pixel_values": pixels, "interpolate_pos_encoding": tuple(pixels.shape[2:]) != table}

    def _patches(self, pixels: Tensor) -> dict[str, Tensor]:
        """NaFlex inputs: patches in row-major order, each flattened as (row, column, channel); none is padding."""
        patch = self.backbone.config.patch_size
        count, channels, rows, columns = *pixels.shape[:2], *(side // patch for side in pixels.shape[2:])
        cells = pixels.reshape(count, channels, rows, patch, columns, patch)
        patches = cells.permute(0, 2, 4, 3, 5, 1).reshape(count, rows * columns, -1)  # [N, T, patch·patch·3]
        mask = torch.ones(count, rows * columns, dtype=torch.int32, device=pixels.device)  # [N, T]
        # On the CPU, because the model reads it row by row in Python.
        shapes = torch.tensor([[rows, columns]] * count, device="cpu").reshape(count, 2)  # [N, 2]
        return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}


def build_vision_encoder(config: VisionConfig, pretrained: str | bool = False) -> VisionEncoder:
    """The encoder that ``config`` describes, with random weights unless told otherwise.

    Args:
        config: architecture and preprocessing.
        pretrained: for timm, True fetches timm's weights; for the other kinds, a directory or hub id, whose own
            architecture then takes the place of the defaults (fields in ``config.options`` still prevail).

    Raises:
        ValueError: unknown architecture or option, or an image size that the architecture cannot take.
    """
    if config.kind == "timm":
        if not isinstance(pretrained, bool):
            raise ValueError(f"timm fetches the weights of {config.model} itself: pretrained is True or False")
        return TimmEncoder(config, pretrained)
    if pretrained is True:
        raise ValueError(f"pretrained {config.kind} weights need a directory or a hub id")
    return TransformersEncoder(config, pretrained or None)


def _create_timm(config: VisionConfig, pretrained: bool) -> nn.Module:
    if not timm.is_model(config.model):
        raise ValueError(f"unknown timm model {config.model!r}; {nearest(config.model, timm.list_models())}")
    try:
        traits = timm.get_pretrained_cfg(config.model)
        # Networks with a position table or fixed windows are built for one size; the others take any.
        sized = {"img_size": config.image_size} if traits is not None and traits.fixed_input_size else {}
        options = {"num_classes": 0, **sized, **config.options}
        return timm.create_model(config.model, pretrained=pretrained, **options)
    except (TypeError, AssertionError, RuntimeError) as error:
        raise ValueError(f"timm cannot build {config.model} with options {config.options}: {error}") from error


def _create_transformers(config: VisionConfig, pretrained: str | None) -> nn.Module:
    config_class, model_class = (getattr(transformers, name) for name in _TRANSFORMERS[config.kind])
    known = _own_fields(config_class())
    for key in config.options:
        if key not in known:
            raise ValueError(f"unknown {config.kind} option {key!r}; {nearest(key, known)}")
    if pretrained is None:
        sized = {"image_size": config.image_size} if "image_size" in known else {}
        fields = config_class(**{**sized, **config.options})
    else:
        fields = config_class.from_pretrained(pretrained, **config.options)
    whole = config.kind == "siglip2" or config.fit == "dynamic"
    if config.image_size < fields.patch_size or (whole and config.image_size % fields.patch_size):
        raise ValueError(f"{config.kind} cannot cut {config.image_size} pixels into patches of {fields.patch_size}")
    if pretrained is None:
        return model_class(fields)
    # Its default is the file's dtype; random weights come in torch's, and so shall these.
    return model_class.from_pretrained(pretrained, config=fields, dtype=torch.get_default_dtype())


def _own_fields(fields: transformers.PreTrainedConfig) -> dict[str, Any]:
    """The architecture in a transformers config, without the bookkeeping that every such config carries."""
    shared = transformers.PreTrainedConfig().to_dict()
    return {key: value for key, value in fields.to_dict().items() if key not in shared}


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
