"""Messages-JSONL: a conversation a line, in Hugging Face's chat format, media paths beside the file.

    {"id": "7", "messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"},
                                                          {"type": "text", "text": "What is it?"}]}]}

The deciding choice: a line that cannot be used is a value, not an exception, so that one bad request never costs the
others their answers. Media are looked for here and decoded later.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.images import check_file, shown
from data_pipelines.record import Message, Sample, image_part, text_part, video_part

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class BadLine:
    """A line that is not a sample.

    Attributes:
        id: the line's own id where it has a usable one, else ``line-<n>``.
        line: its number in the file, from 1.
        reason: one line, ``file:line: what is wrong``.
    """

    id: str
    line: int
    reason: str


def read_messages(path: str | Path, media_root: str | Path | None = None) -> Iterator[Sample | BadLine]:
    """A Sample or a BadLine for every line that is not blank, in the file's order.

    Args:
        path: the JSONL file, UTF-8 with or without a byte-order mark. A line is ``{"id"?, "messages": [...], ...}``;
            its other fields become ``Sample.meta``. A line without an id is called ``line-<n>``.
        media_root: where relative media paths start; by default the file's own folder.

    Raises:
        DataError: at once if the file is missing, a directory or empty; while reading if it is not UTF-8.
    """
    path = check_file(path)
    return _lines(path, path.parent if media_root is None else Path(media_root))


def user_sample(
    prompt: str, images: Sequence[Any] = (), videos: Sequence[Any] = (), system: str | None = None, id: str = "0"
) -> Sample:
    """A chat of one user turn: its images, its videos, then the prompt. Media are paths or PIL pictures."""
    content = [*map(image_part, images), *map(video_part, videos), text_part(prompt)]
    first = [] if system is None else [{"role": "system", "content": system}]
    return Sample(id=id, messages=[*first, {"role": "user", "content": content}])


def _lines(path: Path, root: Path) -> Iterator[Sample | BadLine]:
    seen: set[str] = set()
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            text = _decoded(raw, path, number).strip()
            if text:
                yield _read_line(text, path, number, root, seen)


def _decoded(raw: bytes, path: Path, number: int) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{shown(path)}:{number}: the file is not UTF-8 text") from error


def _read_line(text: str, path: Path, number: int, root: Path, seen: set[str]) -> Sample | BadLine:
    name = f"line-{number}"
    try:
        record = _json_object(text)
        given = _id(record)
        if (given or name) in seen:
            raise _Malformed(f"the id {_short(given or name)} was used before")
        name = given or name
        messages = [_message(m, root) for m in _non_empty_list(record, "messages")]
    except _Malformed as error:
        seen.add(name)
        return BadLine(name, number, f"{shown(path)}:{number}: {error}")
    seen.add(name)
    meta = {key: value for key, value in record.items() if key not in ("id", "messages")}
    return Sample(id=name, messages=messages, source=str(path), meta=meta)


class _Malformed(Exception):
    """What is wrong with a line; becomes its BadLine and never leaves this module."""


def _json_object(text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise _Malformed(f"not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        raise _Malformed("not JSON that can be read") from error
    if not isinstance(record, dict):
        raise _Malformed(f"a JSON object is needed, not {_short(record)}")
    return record


def _id(record: dict[str, Any]) -> str | None:
    """The line's id as text; None where it gives none."""
    value = record.get("id")
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not value:
        raise _Malformed(f"the id must be text or a whole number, not {_short(value)}")
    return _text(value, "the id")


def _message(message: Any, root: Path) -> Message:
    if not isinstance(message, dict):
        raise _Malformed(f"a message must be an object, not {_short(message)}")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise _Malformed(f"unknown role {_short(role)} (known: {', '.join(ROLES)})")
    if not isinstance(content, list):
        return {**message, "content": _text(content, "content")}
    return {**message, "content": [_part(part, root) for part in _non_empty_list(message, "content")]}


def _part(part: Any, root: Path) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise _Malformed(f"a content part must be an object, not {_short(part)}")
    match part.get("type"):
        case "text":
            return text_part(_text(part.get("text"), "text"))
        case "image":
            return image_part(_media(part, "image", root))
        case "video":
            return video_part(_media(part, "video", root))
        case other:
            raise _Malformed(f"unknown part type {_short(other)} (known: text, image, video)")


def _media(part: dict[str, Any], kind: str, root: Path) -> str:
    """The path of a file that is there; a directory may be a video, its pictures the frames."""
    path = root / _text(part.get(kind), kind)
    try:
        if not (kind == "video" and os.path.isdir(path)):
            check_file(path)
    except DataError as error:
        raise _Malformed(f"{kind} {error}") from error
    return str(path)


def _non_empty_list(record: dict[str, Any], key: str) -> list[Any]:
    value = record.get(key)
    if not isinstance(value, list) or not value:
        raise _Malformed(f"{key} must be a list that is not empty, not {_short(value)}")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _Malformed(f"{name} must be text, not {_short(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _Malformed(f"{name} holds half a character (a lone surrogate)") from error
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
