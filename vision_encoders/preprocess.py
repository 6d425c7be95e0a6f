"""PIL images → the normalised pixel array that a vision encoder expects, with numpy and PIL alone.

`pixels` makes every image one square of the config's size, so that images of all shapes stack in one array; `views`
makes what a plan of `vision_encoders.resolution` asks for. Pillow resizes 8-bit pixels with antialiasing, which is
what the processors of CLIP and SigLIP checkpoints do too.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from vision_encoders.config import VisionConfig
from vision_encoders.resolution import Plan, Tiles

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
    return _normalised(levels, config)


def views(image: Image.Image, plan: Plan, config: VisionConfig) -> np.ndarray:
    """What the encoder sees of one picture: float32 [V, 3, h, w], the whole first, then its tiles row by row."""
    image = image.convert("RGB")
    if config.fit in ("squash", "pad"):
        return pixels([image], config)
    seen = [image.resize(plan.view, _FILTERS[config.resample])]
    if plan.tiles is not None:
        seen += _tiles(image, plan.tiles, config)
    return _normalised(np.stack([np.asarray(view) for view in seen]), config)


def _normalised(levels: np.ndarray, config: VisionConfig) -> np.ndarray:
    """8-bit [N, h, w, 3] → float32 [N, 3, h, w]."""
    mean, std = np.float32(config.mean), np.float32(config.std)
    values = (levels.astype(np.float32) / 255 - mean) / std  # [N, h, w, 3]
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def _tiles(image: Image.Image, tiles: Tiles, config: VisionConfig) -> list[Image.Image]:
    """The picture, resized into the middle of a canvas of tiles, and the canvas cut."""
    side, (rows, columns) = config.image_size, tiles.grid
    canvas = _in_the_middle(image, tiles.inner, (columns * side, rows * side), config)
    corners = [(column * side, row * side) for row in range(rows) for column in range(columns)]
    return [canvas.crop((x, y, x + side, y + side)) for x, y in corners]


def _square(image: Image.Image, config: VisionConfig) -> Image.Image:
    size = config.image_size
    if config.fit != "pad":
        return image.resize((size, size), _FILTERS[config.resample])
    longest = max(image.size)
    # A very long strip keeps at least one pixel across.
    inner = tuple(max(1, round(side * size / longest)) for side in image.size)
    return _in_the_middle(image, inner, (size, size), config)


def _in_the_middle(
    image: Image.Image, inner: tuple[int, int], outer: tuple[int, int], config: VisionConfig
) -> Image.Image:
    """The picture as ``inner`` on a canvas ``outer`` of the mean color; sizes are (width, height)."""
    canvas = Image.new("RGB", outer, tuple(round(255 * value) for value in config.mean))
    corner = ((outer[0] - inner[0]) // 2, (outer[1] - inner[1]) // 2)
    canvas.paste(image.resize(inner, _FILTERS[config.resample]), corner)
    return canvas
