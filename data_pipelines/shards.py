"""Samples as members of a WebDataset shard: ``key.json`` and the media that it names, in a tar file.

The deciding choice: media that need no change go in byte for byte, so a prepared sample shows exactly what it showed
before. Only a picture above the limit on pixels is encoded anew: JPEG stays JPEG, anything else becomes PNG.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.images import load_image, open_image, quiet_pillow
from data_pipelines.media import open_media, with_times
from data_pipelines.record import Message, Sample, media_parts
from data_pipelines.video import pictures_in

EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "AVIF": "avif"}
QUALITY = 95  # of a JPEG that was resized
FRAMES = 16  # of a clip are decoded, as training does
CLAIMED = {"texts", "conversations", "images", "videos"}  # fields that would make a record one of another format

Sizes = list[tuple[int, int] | int]  # (width, height) of every image, frames of every video, in reading order
Count = Callable[[list[Message], Sizes], int]


@dataclass(frozen=True)
class Packed:
    """One sample, ready to be written.

    Attributes:
        record: what its ``json`` member says.
        media: bytes of its other members by name.
        left_out: fields of the record that JSON cannot hold or that would change its format.
    """

    record: dict[str, Any]
    media: dict[str, bytes]
    left_out: list[str]


def pack_sample(sample: Sample, key: str, max_pixels: int | None = None, count: Count | None = None) -> Packed:
    """A sample's record and media, everything decoded once to see that it can be.

    Beside its own fields the record gets ``sizes`` and, with ``count``, ``tokens``.

    Raises:
        DataError: a medium cannot be decoded.
        ValueError: ``count`` refuses the conversation.
    """
    members: dict[str, bytes] = {}
    originals = [_originals(part) for part in media_parts(sample.messages)]  # before decoding closes their files
    opened = open_media(sample.messages, FRAMES)
    names, sizes = [], []
    for (kind, items), item in zip(originals, opened):
        if kind == "image":
            item = _limited(item, max_pixels)
            items = [_encoded(item, items[0])]
            sizes.append(item.size)
        else:
            sizes.append(len(item))
        first = len(members)
        members |= {f"{key}.{first + n}.{extension}": data for n, (extension, data) in enumerate(items)}
        names.append(list(members)[first:])
    fields, left_out = _fields(sample.meta)
    record = {
        "id": sample.id,
        "messages": _named(sample.messages, names),
        **fields,
        **({"sizes": sizes} if sizes else {}),
    }
    if not _is_json(record):
        raise DataError("its messages have fields that JSON cannot hold")
    if count is not None:
        messages, shown = with_times(sample.messages, opened)
        timed = messages is not sample.messages
        record["tokens"] = count(messages, [_size(item) for item in shown] if timed else sizes)
    return Packed(record, members, left_out)


def write_shard(path: Path, samples: Iterator[tuple[str, Packed]]) -> int:
    """Write (key, sample) pairs as a tar file that is whole or not there; how many. None leaves no file."""
    partial, number = path.with_name(f".{path.name}.{os.getpid()}"), 0
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
        for key, packed in samples:
            _add(tar, f"{key}.json", json.dumps(packed.record, ensure_ascii=False).encode())
            for name, data in packed.media.items():
                _add(tar, name, data)
            number += 1
    if number:
        os.replace(partial, path)
    else:
        partial.unlink()
    return number


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # no time, no owner: the same samples give the same bytes
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _originals(part: dict[str, Any]) -> tuple[str, list[tuple[str, bytes | None]]]:
    """The kind of a medium, and the extension and bytes of its files; a video of pictures has several."""
    source = part[part["type"]]
    if part["type"] == "image":
        return "image", [_picture_file(source)]
    if isinstance(source, str | Path) and os.path.isdir(source):
        source = pictures_in(Path(source))
    if not isinstance(source, str | Path):
        return "video", [_encoded(None, _picture_file(picture), picture) for picture in source]
    return "video", [(Path(source).suffix.removeprefix(".").lower() or "mp4", Path(source).read_bytes())]


def _picture_file(source: str | Path | Image.Image) -> tuple[str, bytes | None]:
    """A picture's extension and bytes; no bytes if they are gone or no reader would know them by an extension."""
    if isinstance(source, Image.Image):
        extension, file = EXTENSIONS.get(source.format), getattr(source, "fp", None)
        return (extension, file.getvalue()) if extension and isinstance(file, io.BytesIO) else ("png", None)
    with quiet_pillow(), open_image(Path(source)) as image:
        extension = EXTENSIONS.get(image.format)
    return (extension, Path(source).read_bytes()) if extension else ("png", None)


def _limited(image: Image.Image, max_pixels: int | None) -> Image.Image:
    """The picture, smaller if it has too many pixels; its shape stays."""
    area = image.width * image.height
    if max_pixels is None or area <= max_pixels:
        return image
    scale = sqrt(max_pixels / area)
    width, height = (max(1, int(side * scale)) for side in image.size)
    size = (min(width, max_pixels), min(height, max_pixels))  # a strip of one pixel across
    small = image.resize(size, Image.Resampling.LANCZOS)
    small.info["resized"] = True
    return small


def _encoded(image: Image.Image | None, original: tuple[str, bytes | None], source: Any = None) -> tuple[str, bytes]:
    """Extension and bytes: the file's own, or of the decoded picture if there are none or it was resized."""
    extension, data = original
    resized = image is not None and image.info.get("resized")
    if data is not None and not resized:
        return extension, data
    file, extension = io.BytesIO(), "jpg" if resized and extension == "jpg" else "png"
    options = {"quality": QUALITY} if extension == "jpg" else {}
    (load_image(source) if image is None else image).save(file, "JPEG" if options else "PNG", **options)
    return extension, file.getvalue()


def _named(messages: list[Message], names: list[list[str]]) -> list[Message]:
    """The messages with members' names in the place of media.

    One content is always a list of parts: strings alone would be read as texts with placeholders.
    """
    left, told = iter(names), []
    listed = any(isinstance(message["content"], list) for message in messages)
    for number, message in enumerate(messages):
        content = message["content"]
        if isinstance(content, list):
            content = [_named_part(part, left) for part in content]
        elif number == 0 and not listed:
            content = [{"type": "text", "text": content}]
        told.append({**message, "content": content})
    return told


def _named_part(part: dict[str, Any], left: Iterator[list[str]]) -> dict[str, Any]:
    if part["type"] == "text":
        return part
    names = next(left)
    whole = part["type"] == "image" or isinstance(part["video"], str | Path) and not os.path.isdir(part["video"])
    return {**part, part["type"]: names[0] if whole else names}


def _fields(meta: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields that a record can take along, and the names of the others."""
    kept, left_out = {}, []
    for name, value in meta.items():
        if name in CLAIMED or value == [] or not _is_json(value):  # the reader takes empty lists for media left out
            left_out.append(name)
        else:
            kept[name] = value
    return kept, left_out


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _size(item: Image.Image | list) -> tuple[int, int] | int:
    return len(item) if isinstance(item, list) else item.size
