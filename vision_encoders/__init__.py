"""Pixels in, patch features out: one interface over timm backbones and the SigLIP/CLIP towers of transformers.

Knows nothing of language. ``pixels`` prepares PIL images as a ``VisionConfig`` asks, ``build_vision_encoder`` makes
the module that turns them into features. Where pictures keep their shapes, ``plan`` says from a size alone what
becomes of a picture, ``views`` makes it, and ``Pictures`` holds what differs too much for one tensor.
"""

# First, because timm and transformers import torchvision.
from vision_encoders import torchvision_compat  # noqa: F401  # isort: skip

from vision_encoders.config import VisionConfig
from vision_encoders.encoder import VisionEncoder, build_vision_encoder
from vision_encoders.pictures import Picture, Pictures
from vision_encoders.preprocess import pixels, views
from vision_encoders.resolution import Plan, plan

__all__ = [
    "Picture",
    "Pictures",
    "Plan",
    "VisionConfig",
    "VisionEncoder",
    "build_vision_encoder",
    "pixels",
    "plan",
    "views",
]
