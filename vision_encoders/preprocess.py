"""PIL images → the normalised pixel array that a vision encoder expects, with numpy and PIL alone.

Every image becomes one square of the config's size, so that images of all shapes stack in one array. Pillow resizes
8-bit pixels with antialiasing, which is what the processors of CLIP and SigLIP checkpoints do too.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from vision_encoders.config import VisionConfig

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def pixels(images: Sequence[Image.Image], config: VisionConfig) -> np.ndarray:
    """Prepare images for an encoder.

    Args:
        images: N pictures of any size; modes other than RGB are converted.
        config: gives the size, the filter, the fit and the normalisation.

    Returns:
        float32 [N, 3, S, S]: (value / 255 − mean) / std. N may be 0.
    """
    size = config.image_size
    levels = np.empty((len(images), size, size, 3), dtype=np.uint8)
    for index, image in enumerate(images):
        levels[index] = _square(image.convert("RGB"), config)
    mean, std = np.float32(config.mean), np.float32(config.std)
    values = (levels.astype(np.float32) / 255 - mean) / std  # [N, S, S, 3]
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def _square(image: Image.Image, config: VisionConfig) -> Image.Image:
    size, resample = config.image_size, _FILTERS[config.resample]
    if config.fit == "squash":
        return image.resize((size, size), resample)
    longest = max(image.size)
    # A very long strip keeps at least one pixel across.
    width, height = (max(1, round(side * size / longest)) for side in image.size)
    canvas = Image.new("RGB", (size, size), tuple(round(255 * value) for value in config.mean))
    canvas.paste(image.resize((width, height), resample), ((size - width) // 2, (size - height) // 2))
    return canvas
