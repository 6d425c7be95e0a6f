"""Block-diffusion vision-language models: load, run, train.

Importing the package registers its classes with transformers' Auto classes, so that
``AutoModelForImageTextToText.from_pretrained(directory)`` returns ours.
"""

# First: repairs torchvision on CPU-only torch before transformers looks at it.
import vision_encoders  # noqa: F401  # isort: skip

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from vlm.config import DiffusionTraits, VLMConfig
from vlm.generation.config import BlockGenerationConfig
from vlm.model import VLMForBlockDiffusion
from vlm.processor import VLMProcessor

AutoConfig.register(VLMConfig.model_type, VLMConfig)
AutoModelForImageTextToText.register(VLMConfig, VLMForBlockDiffusion)
AutoProcessor.register(VLMConfig, VLMProcessor)

__all__ = ["BlockGenerationConfig", "DiffusionTraits", "VLMConfig", "VLMForBlockDiffusion", "VLMProcessor"]
