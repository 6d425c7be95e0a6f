"""What a record calls an image or a video → the value a sample holds: a path, or a picture that is not yet decoded.

The deciding choice: a record may only name what lies under its media root. ``..`` and absolute paths are followed as
written and refused when they lead out; symbolic links are the user's own arrangement of the folder and are followed.
"""

import base64
import binascii
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.images import check_file, open_image
from data_pipelines.readers.checks import Malformed, short, text
from data_pipelines.readers.spool import spooled
from data_pipelines.record import Message


@dataclass(frozen=True)
class Media:
    """Where the media of one record are looked for.

    Attributes:
        root: the folder that relative paths start from; None if there is none, as beside a shard.
        members: bytes by name, looked at before the folder.
        fenced: whether paths that lead out of the root are refused.
    """

    root: Path | None
    members: Mapping[str, bytes] = field(default_factory=dict)
    fenced: bool = True

    def find(self, kind: str, value: Any) -> Any:
        """``kind`` is image or video. ``value`` is a path, a ``data:`` or ``file:`` URI, bytes, one of these in a
        dictionary (``bytes``, ``path``, ``url``), or for a video a list of its frames."""
        if kind == "video" and isinstance(value, list) and value:
            return [self.find("image", frame) for frame in value]
        value = _unwrapped(value)
        if isinstance(value, bytes):
            return _from_bytes(kind, value, kind)
        name = text(value, kind)
        if name[:5].lower() == "data:":
            return _from_bytes(kind, _data_uri(kind, name), f"{kind} in a data URI")
        if name in self.members:
            return _from_bytes(kind, self.members[name], name)
        return self._path(kind, _local(kind, name))

    def _path(self, kind: str, name: str) -> str:
        """The path of a file that is there; a directory may be a video, its pictures the frames."""
        if self.root is None:
            raise Malformed(f"{kind} {short(name)}: no such member beside it in the shard")
        path = Path(os.path.normpath(self.root / name))
        if self.fenced and not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(self.root)):
            raise Malformed(f"{kind} {short(name)} is outside the media root {short(str(self.root))}")
        try:
            if not (kind == "video" and os.path.isdir(path)):
                check_file(path)
        except DataError as error:
            raise Malformed(f"{kind} {error}") from error
        return str(path)


@dataclass(frozen=True)
class Closed:
    """A picture that came as bytes, as it came: what waits for its turn, or goes to another process."""

    data: bytes
    name: str


def closed(messages: list[Message]) -> list[Message]:
    """The messages with pictures that are open in memory closed. An open one would be decoded on its way."""
    return _with_pictures(messages, lambda item: Closed(item.fp.getvalue(), item.fp.name) if _is_open(item) else item)


def reopened(messages: list[Message]) -> list[Message]:
    """The messages as they were before `closed`."""
    return _with_pictures(messages, lambda i: _from_bytes("image", i.data, i.name) if isinstance(i, Closed) else i)


def _is_open(item: Any) -> bool:
    return isinstance(item, Image.Image) and isinstance(getattr(item, "fp", None), _Named)


def _with_pictures(messages: list[Message], change: Callable[[Any], Any]) -> list[Message]:
    """The messages with ``change`` made to every picture, frames of videos included."""

    def changed(part: dict[str, Any]) -> dict[str, Any]:
        held = part.get(part["type"])
        if part["type"] == "text" or isinstance(held, str | Path):
            return part
        listed = held if isinstance(held, list) else [held]
        found = [*map(change, listed)]
        if all(new is old for new, old in zip(found, listed)):
            return part
        return {**part, part["type"]: found if isinstance(held, list) else found[0]}

    return [{**m, "content": [*map(changed, m["content"])]} if isinstance(m["content"], list) else m for m in messages]


def from_base64(source: str, name: str) -> bytes:
    try:
        return base64.b64decode("".join(source.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed(f"{name} is not base64 ({short(source)})") from error


def _unwrapped(value: Any) -> Any:
    """``{"bytes", "path"}`` of a Hugging Face column, ``{"url"}`` of an API request, or the value itself."""
    if not isinstance(value, dict):
        return value
    return next((value[key] for key in ("bytes", "path", "url") if value.get(key) is not None), value)


def _data_uri(kind: str, uri: str) -> bytes:
    head, comma, body = uri[5:].partition(",")
    if not comma:
        raise Malformed(f"{kind} is a data URI without data ({short(uri)})")
    return from_base64(unquote(body), kind) if head.lower().endswith(";base64") else unquote_to_bytes(body)


def _local(kind: str, name: str) -> str:
    """A path from a ``file:`` URI; anything else that has a host would have to be fetched, and is not."""
    if "://" not in name:
        return name
    parts = urlsplit(name)
    if parts.scheme.lower() != "file" or parts.netloc not in ("", "localhost"):
        raise Malformed(f"{kind} {short(name)} is a remote address: media must be files")
    return unquote(parts.path)


def _from_bytes(kind: str, data: bytes, name: str) -> Any:
    if not data:
        raise Malformed(f"{kind} {short(name)} is empty")
    if kind == "video":
        return spooled(data)
    try:
        image = open_image(_Named(data, name))
    except DataError as error:
        raise Malformed(str(error)) from error
    image.filename = name  # load_image names it if its pixels turn out to be damaged
    return image


class _Named(io.BytesIO):
    """Bytes that errors can name as they name a path."""

    def __init__(self, data: bytes, name: str):
        super().__init__(data)
        self.name = name

    def __str__(self) -> str:
        return self.name
