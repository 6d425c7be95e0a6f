"""From lmms-eval's requests to ours: messages with their media, and settings of decoding.

Two layouts of ``Instance.args`` exist (0.7.3). Chat: (context, doc_to_messages, settings, doc id, task, split), with
messages in OpenAI's shape whose media stand under ``url``. Simple: (context, settings or continuation, doc_to_visual,
doc id, task, split), with a list of media for which the context is the text.

The deciding choice of settings, strongest first: what the caller set, the suite's entry for the task, the task's own.
The task's stop text ``"\\n\\n"`` is lmms-eval's default even for answers of several paragraphs, and is not obeyed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.media import open_media
from data_pipelines.record import Message, image_part, text_part, video_part

OWN = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty")  # of a task's settings, by our names
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tiff", ".webp")
DEFAULT_STOP = "\n\n"


@dataclass(frozen=True)
class Asked:
    """One request of lmms-eval's.

    Attributes:
        context: the question as text. given: the task's settings; of a likelihood, the continuation.
        doc: the record of the data set, and ``visual`` what makes of it messages (chat) or a list of media.
    """

    context: str
    given: Any
    visual: Any
    doc: Any
    task: str
    doc_id: int


def asked(arguments: tuple, task_dict: Mapping, chat: bool) -> Asked:
    """What ``Instance.args`` says; see the module's text for its layouts."""
    context, second, third, doc_id, task, split = arguments
    given, visual = (third, second) if chat else (second, third)
    return Asked(context, given, visual, task_dict[task][split][doc_id], task, doc_id)


def conversation(request: Asked, chat: bool, frames: int) -> tuple[list[Message], list[Any]]:
    """Messages and opened media as `vlm.answering.build_request` takes them.

    Raises:
        DataError: media that cannot be read, or of a kind the model does not see.
    """
    if chat:
        messages = [_message(message) for message in request.visual(request.doc)]
    else:
        content = [*map(_media_part, _flat(request.visual(request.doc) or [])), text_part(request.context)]
        messages = [{"role": "user", "content": content}]
    return messages, open_media(messages, frames)


def settings_of(task: Mapping[str, Any], suite: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by our names, for `vlm.answering.own_strategy`; what has no meaning here is left out."""
    found = {key: task[key] for key in OWN if task.get(key) is not None}
    if task.get("do_sample") is False:
        found["temperature"] = 0.0
    if found.get("temperature", 0) == 0:
        found = {key: value for key, value in found.items() if key not in ("top_p", "top_k")}  # greedy: they are idle
    until = task.get("until") or []
    stop = [text for text in ([until] if isinstance(until, str) else until) if text and text != DEFAULT_STOP]
    found |= {key: value for key, value in suite.items() if key != "stop"}
    found["stop_strings"] = list(suite.get("stop") or []) if "stop" in suite else stop
    found |= {key: value for key, value in own.items() if value is not None}
    if found.get("mode") == "ar":
        found = {key: value for key, value in found.items() if key not in ("block_size", "threshold", "policy")}
    if "denoising_steps" in own and "threshold" not in own:
        found.pop("threshold", None)  # they exclude each other, and the caller's prevails
    return {key: value for key, value in found.items() if value not in (None, [])}


def _message(message: Mapping[str, Any]) -> Message:
    content = message["content"]
    parts = [text_part(content)] if isinstance(content, str) else [_part(part) for part in content]
    return {"role": message["role"], "content": parts}


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    kind = part["type"]
    if kind == "text":
        return text_part(part["text"])
    if kind not in ("image", "video"):
        raise DataError(f"a question with {kind}: this model sees images and video")
    if part.get("start_time") is not None or part.get("end_time") is not None:
        raise DataError("a question about a part of a video between two times, which cannot be cut out")
    return _media_part(part["url"], kind)


def _media_part(media: Any, kind: str | None = None) -> dict[str, Any]:
    """A picture or a path of an image; else a video."""
    if isinstance(media, Mapping):
        if "video_start" in media or "video_end" in media:
            raise DataError("a question about a part of a video between two times, which cannot be cut out")
        kind, media = media.get("type", kind), media.get("url") or media.get("path")
    if not isinstance(media, (str, list, Image.Image)):
        raise DataError(f"a question with media of type {type(media).__name__}")
    image = isinstance(media, Image.Image) or (isinstance(media, str) and media.lower().endswith(PICTURES))
    return image_part(media) if kind == "image" or (kind is None and image) else video_part(media)


def _flat(media: Any) -> list[Any]:
    """lmms-eval's tasks nest their lists."""
    if not isinstance(media, (list, tuple)):
        return [media]
    return [entry for part in media for entry in (part if isinstance(part, (list, tuple)) else [part])]
