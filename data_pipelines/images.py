"""Pictures from files: always RGB, upright, complete, or one line that says why not.

The deciding choice: a picture is either decoded whole or refused. A truncated file is never half a picture, and a
header's claimed size is checked before a single pixel is decoded. `image_size` reads headers only, so that what a
picture will cost is known before it is loaded.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import SEEK_CUR
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from data_pipelines.errors import DataError

MAX_PIXELS = 2**26  # 67.1 Mpx: a "64 megapixel" camera fits, a decompression bomb does not

# The customary full scales of each deep grey mode; a picture takes the first that holds all of its values.
FULL_SCALES = {"F": (1.0, 255.0, 65535.0), "I": (255.0, 65535.0)}


def load_image(source: str | Path | Image.Image) -> Image.Image:
    """One picture as RGB, turned upright by its EXIF orientation, transparency laid on white.

    An animation gives its first frame; a PIL image is taken at its current frame and left as it is.

    Raises:
        DataError: no such file, not a regular file, empty, not a picture, truncated, or above ``MAX_PIXELS``.
    """
    if isinstance(source, Image.Image):
        return _decode(source, getattr(source, "filename", "") or "image")
    path = check_file(source)
    with quiet_pillow(), open_image(path) as image:
        return _decode(image, path)


def image_size(source: str | Path | Image.Image) -> tuple[int, int]:
    """(width, height) that `load_image` will give, upright, from the header: no pixel is decoded.

    Raises:
        DataError: as `load_image`, except for what only the pixels show.
    """
    if isinstance(source, Image.Image):
        return _upright_size(source)
    path = check_file(source)
    with quiet_pillow(), open_image(path) as image:
        return _upright_size(image)


def check_file(source: str | Path) -> Path:
    """The path of a readable, non-empty regular file, or a DataError that says what it is instead."""
    path = Path(source)
    try:
        if path.is_dir():
            raise DataError(f"{shown(path)}: is a directory, not a file")
        if not path.exists():
            link = path.is_symlink()  # to what is gone, or in a circle
            raise DataError(f"{shown(path)}: {'a symbolic link that leads to no file' if link else 'no such file'}")
        if not path.is_file():
            raise DataError(f"{shown(path)}: not a regular file")
        if path.stat().st_size == 0:
            raise DataError(f"{shown(path)}: the file is empty")
        path.open("rb").close()
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be opened ({error.strerror})") from error
    return path


def shown(path: str | Path) -> str:
    """A path as one line of an error message, whatever characters its name holds."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def open_image(path: Path) -> Image.Image:
    """The picture's header, its size checked; pixels are not decoded yet. Raises DataError."""
    try:
        with quiet_pillow():
            image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except UnidentifiedImageError as error:
        raise DataError(f"{shown(path)}: not an image") from error
    except Exception as error:  # Pillow's format readers raise whatever they stumble on
        raise DataError(f"{shown(path)}: not a readable image ({_reason(error)})") from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise _too_large(path)
    return image


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Pillow's remarks on odd metadata stay silent, and so does its own limit on size: ours is lower."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB: deep greys scaled to 8 bits, transparency composited on white."""
    if image.mode in FULL_SCALES or image.mode.startswith("I;16"):
        return _to_8_bits(image).convert("RGB")
    if image.has_transparency_data:
        front = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", front.size, "white"), front).convert("RGB")
    return image.convert("RGB")


def _decode(image: Image.Image, name: str | Path) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name)
    try:
        image.load()
        return to_rgb(_upright(image))
    except Exception as error:  # as above: OSError for most truncations, but not for all
        raise DataError(f"{shown(name)}: the image is truncated or damaged ({_reason(error)})") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # unreadable EXIF around sound pixels says nothing about their orientation
        return image


def _upright_size(image: Image.Image) -> tuple[int, int]:
    if image.format == "TIFF":  # Pillow turns these itself, and names the size that they will have
        return image.size
    try:
        late = image.format == "PNG" and "exif" not in image.info and _says_more_behind_its_pixels(image.fp)
        # A PNG's own method decodes the picture, which is needed where it is described behind its pixels.
        exif = image.getexif() if late else Image.Image.getexif(image)
        turned = exif.get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except Exception:  # as in `_upright`
        return image.size
    return image.size[::-1] if turned else image.size


def _says_more_behind_its_pixels(file: BinaryIO | None) -> bool:
    """Whether a PNG has metadata behind its first pixels; their chunks are passed over, not read."""
    if file is None:  # decoded already
        return False
    place, found, pixels = file.tell(), False, False
    file.seek(8)
    while len(head := file.read(8)) == 8 and not found:
        pixels = pixels or head[4:] == b"IDAT"
        found = pixels and head[4:] in (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
        file.seek(int.from_bytes(head[:4], "big") + 4, SEEK_CUR)
    file.seek(place)
    return found


def _to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float greys on the scale their values imply; beyond every scale, by their own range."""
    values = np.nan_to_num(np.asarray(image).astype(np.float32))  # [H, W]
    low, high = float(values.min()), float(values.max())
    scales = FULL_SCALES.get(image.mode, (65535.0,))
    full = next((s for s in scales if low >= 0 and high <= s), None)
    if full is not None:
        low, high = 0.0, full
    grey = (values - low) / max(high - low, np.finfo(np.float32).tiny) * 255
    return Image.fromarray(np.rint(grey).astype(np.uint8))


def _too_large(name: str | Path) -> DataError:
    return DataError(f"{shown(name)}: the header claims more than {MAX_PIXELS / 1e6:.0f} million pixels")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
