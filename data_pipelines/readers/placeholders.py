"""``<image>`` and ``<video>`` in the text of a chat, and the lists of media they stand for → content parts.

The rule: as many placeholders as media, in the same order. A line break that only sets a placeholder apart from the
text (one behind it, or one before it at the very end) belongs to the placeholder and goes with it.
LLaVA-OneVision writes ``<image>`` for a video too: where no ``<video>`` is written, it stands for both, images first.
"""

import re
from collections.abc import Iterator
from typing import Any

from data_pipelines.readers.checks import Malformed, short, text
from data_pipelines.record import FLAGS

PLACEHOLDER = re.compile(r"\n?<(image|video)>\Z|<(image|video)>\n?")
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def chat(record: dict[str, Any], turns: list[Any]) -> list[dict[str, Any]]:
    """Messages whose media parts hold what the record lists under ``image(s)`` and ``video(s)``.

    ``turns`` are ``{"from", "value"}`` or ``{"role", "content"}``; ``loss`` stays with its turn; a ``system`` of the
    record comes first. Content may be parts already: those without a value of their own are placeholders.
    """
    messages = [_message(turn) for turn in turns]
    if record.get("system"):
        messages.insert(0, {"role": "system", "content": text(record["system"], "system")})
    spots = [part for m in messages if isinstance(m["content"], list) for part in m["content"] if _empty(part)]
    for part, (kind, value) in zip(spots, _in_order(spots, listed(record, "image"), listed(record, "video"))):
        part.update({"type": kind, kind: value})  # what else it says, such as how to sample a video, stays
    return messages


def listed(record: dict[str, Any], kind: str) -> list[Any]:
    """The media of ``image`` and ``images`` (or ``video`` and ``videos``): one, several or none."""
    values = (record.get(kind), record.get(f"{kind}s"))
    return [item for value in values for item in (value if isinstance(value, list) else [value]) if item]


def has_placeholder(content: Any) -> bool:
    return isinstance(content, str) and PLACEHOLDER.search(content) is not None


def _message(turn: Any) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise Malformed(f"a message must be an object, not {short(turn)}")
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    role = ROLES.get(role, role) if isinstance(role, str) else role
    if has_placeholder(content):
        if role != "user":
            raise Malformed(f"a placeholder stands in a turn of role {short(role)}: media belong to the user's turns")
        content = list(_parts(content))
    elif isinstance(content, list):
        content = [dict(part) if isinstance(part, dict) else part for part in content]
    return {"role": role, "content": content, **{key: turn[key] for key in FLAGS if turn.get(key) is not None}}


def _parts(content: str) -> Iterator[dict[str, Any]]:
    end = 0
    for found in PLACEHOLDER.finditer(content):
        if content[end : found.start()]:
            yield {"type": "text", "text": content[end : found.start()]}
        yield {"type": found[1] or found[2]}
        end = found.end()
    if content[end:]:
        yield {"type": "text", "text": content[end:]}


def _empty(part: Any) -> bool:
    """A media part that says only its kind."""
    kind = part.get("type") if isinstance(part, dict) else None
    return kind in ("image", "video") and not any(part.get(key) is not None for key in (kind, "path", "url"))


def _in_order(spots: list[dict], images: list[Any], videos: list[Any]) -> list[tuple[str, Any]]:
    kinds = [spot["type"] for spot in spots]
    asked = kinds.count("image"), kinds.count("video")
    if asked == (len(images), len(videos)):
        waiting = {"image": iter(images), "video": iter(videos)}
        return [(kind, next(waiting[kind])) for kind in kinds]
    if asked == (len(images) + len(videos), 0):
        return [("image", value) for value in images] + [("video", value) for value in videos]
    raise Malformed(
        f"{asked[0]} <image> and {asked[1]} <video> placeholders for {len(images)} images and {len(videos)} videos"
    )
