"""The sample record: what every reader yields and every batcher takes.

A sample is a chat in Hugging Face's message format. Media parts hold a path, a PIL image, or (video) a list of PIL
frames; nothing is decoded until a batch needs it.
"""

from dataclasses import dataclass, field
from typing import Any

FLAGS = ("loss", "spelled")  # what a message may say, true or false, of how it is learnt
Message = dict[str, Any]  # {"role": "system" | "user" | "assistant", "content": str | list[part]}


@dataclass
class Sample:
    """One conversation with its media.

    Attributes:
        id: names the sample in errors, metrics and resumed runs; unique within its source, if that gives unique ids.
        messages: chat messages. A part is ``{"type": "text", "text": str}``,
            ``{"type": "image", "image": path | PIL}`` or ``{"type": "video", "video": path | list[path | PIL]}``;
            a video part may say how its frames are chosen (`data_pipelines.media`).
            An assistant message with ``"loss": False`` is read as context and not learnt; one with ``"spelled": True``
            is learnt a character a token.
        source: where the sample came from (a file, or ``playground/<family>``).
        meta: whatever a metric or a report needs; never read by the model.
    """

    id: str
    messages: list[Message]
    source: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


def text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def image_part(image: Any) -> dict[str, Any]:
    return {"type": "image", "image": image}


def video_part(video: Any) -> dict[str, Any]:
    return {"type": "video", "video": video}


def media_parts(messages: list[Message]) -> list[dict[str, Any]]:
    """Every image and video part of a conversation, in reading order."""
    contents = (m["content"] for m in messages if isinstance(m["content"], list))
    return [part for content in contents for part in content if part["type"] in ("image", "video")]
