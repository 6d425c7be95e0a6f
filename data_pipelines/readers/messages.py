"""Messages in Hugging Face's chat format, whose parts hold paths; and requests: a JSONL file of such messages.

    {"id": "7", "messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"},
                                                          {"type": "text", "text": "What is it?"}]}]}

The deciding choice: this is the shape that every other format is turned into, so it is checked here once, and here
media are looked for (and decoded later). Text is taken as it is: ``<image>`` in it is no placeholder.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.images import check_file
from data_pipelines.media import video_settings
from data_pipelines.readers.checks import BadLine, Malformed, NotText, Row, filled_list, own_id, short, text
from data_pipelines.readers.jsonl import jsonl_rows
from data_pipelines.readers.resolve import Media
from data_pipelines.record import FLAGS, Message, Sample, image_part, text_part, video_part
from data_pipelines.sampling import SamplingError

ROLES = ("system", "user", "assistant")
KEYS = {"messages"}


def read_messages(path: str | Path, media_root: str | Path | None = None) -> Iterator[Sample | BadLine]:
    """A Sample or a BadLine for every line that is not blank, in the file's order.

    These are one's own requests: their ids must differ, for answers are found by them, and a path may lead anywhere.

    Args:
        path: the JSONL file, UTF-8 with or without a byte-order mark. A line is ``{"id"?, "messages": [...], ...}``;
            its other fields become ``Sample.meta``. A line without an id is called ``line-<n>``.
        media_root: where relative media paths start; by default the file's own folder.

    Raises:
        DataError: at once if the file is missing, a directory or empty; while reading if it is not UTF-8.
    """
    path = check_file(path)
    return _requests(path, Media(path.parent if media_root is None else Path(media_root), fenced=False))


def user_sample(
    prompt: str, images: Sequence[Any] = (), videos: Sequence[Any] = (), system: str | None = None, id: str = "0"
) -> Sample:
    """A chat of one user turn: its images, its videos, then the prompt. Media are paths or PIL pictures."""
    content = [*map(image_part, images), *map(video_part, videos), text_part(prompt)]
    first = [] if system is None else [{"role": "system", "content": system}]
    return Sample(id=id, messages=[*first, {"role": "user", "content": content}])


def fits(record: dict[str, Any]) -> bool:
    """Whether some content is a list of parts and no media are listed beside the messages."""
    turns = record.get("messages")
    turns = turns if isinstance(turns, list) and not any(record.get(key) for key in ("images", "videos")) else []
    return any(isinstance(turn, dict) and isinstance(turn.get("content"), list) for turn in turns)


def messages(record: dict[str, Any]) -> list[Any]:
    return filled_list(record, "messages")


def checked(message: Any, media: Media) -> Message:
    """One message as a sample holds it: a known role, text that is text, media that are there."""
    if not isinstance(message, dict):
        raise Malformed(f"a message must be an object, not {short(message)}")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise Malformed(f"unknown role {short(role)} (known: {', '.join(ROLES)})")
    said = {key: _flag(key, message[key]) for key in FLAGS if message.get(key) is not None}
    message = {**message, **said}
    if not isinstance(content, list):
        return {**message, "content": text(content, "content")}
    return {**message, "content": [_part(part, media) for part in filled_list(message, "content")]}


def _requests(path: Path, media: Media) -> Iterator[Sample | BadLine]:
    seen: set[str] = set()
    for row in jsonl_rows(path):
        if isinstance(row.record, NotText):
            raise DataError(f"{row.where}: {row.record}")
        request = _request(row, path, media, seen)
        seen.add(request.id)
        yield request


def _request(row: Row, path: Path, media: Media, seen: set[str]) -> Sample | BadLine:
    name = row.name
    try:
        if isinstance(row.record, Malformed):
            raise row.record
        given = own_id(row.record) or name
        if given in seen:
            raise Malformed(f"the id {short(given)} was used before")
        name = given
        chat = [checked(m, media) for m in messages(row.record)]
    except Malformed as error:
        return BadLine(name, row.number, f"{row.where}: {error}")
    meta = {key: value for key, value in row.record.items() if key not in ("id", "messages")}
    return Sample(id=name, messages=chat, source=str(path), meta=meta)


def _flag(key: str, value: Any) -> bool:
    if value not in (True, False):
        raise Malformed(f"{key} must be true or false, not {short(value)}")
    return bool(value)


def _part(part: Any, media: Media) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise Malformed(f"a content part must be an object, not {short(part)}")
    match part.get("type"):
        case "text":
            return text_part(text(part.get("text"), "text"))
        case "image":
            return image_part(media.find("image", _value(part, "image")))
        case "video":
            return {**video_part(media.find("video", _value(part, "video"))), **_sampled(part)}
        case other:
            raise Malformed(f"unknown part type {short(other)} (known: text, image, video)")


def _sampled(part: dict[str, Any]) -> dict[str, Any]:
    """What a video part says of its frames."""
    try:
        return video_settings(part)
    except SamplingError as error:
        raise Malformed(f"video {short(_value(part, 'video'))}: {error}") from error


def _value(part: dict[str, Any], kind: str) -> Any:
    """Newer chat templates say ``path`` or ``url`` instead of the kind."""
    return next((part[key] for key in (kind, "path", "url") if part.get(key) is not None), None)
