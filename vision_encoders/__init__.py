"""Pixels in, patch features out: one interface over timm backbones and the SigLIP/CLIP towers of transformers.

Knows nothing of language. ``pixels`` prepares PIL images as a ``VisionConfig`` asks, ``build_vision_encoder`` makes
the module that turns them into features.
"""

# First, because timm and transformers import torchvision.
from vision_encoders import torchvision_compat  # noqa: F401  # isort: skip

from vision_encoders.config import VisionConfig
from vision_encoders.encoder import VisionEncoder, build_vision_encoder
from vision_encoders.preprocess import pixels

__all__ = ["VisionConfig", "VisionEncoder", "build_vision_encoder", "pixels"]
