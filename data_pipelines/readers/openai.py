"""OpenAI chat messages: parts of type ``text`` and ``image_url``, whose URL is a path or a base64 data URI.

``video_url`` and the newer ``input_text``/``input_image`` names are read too; ``"weight": 0`` of its fine-tuning files
means what ``"loss": false`` means elsewhere. Addresses on the network are refused.
"""

from typing import Any

from data_pipelines.readers.checks import Malformed, filled_list, short
from data_pipelines.record import FLAGS

KEYS = {"messages"}
PARTS = {  # their type → our type, and the field that holds the value
    "image_url": ("image", "image_url"),
    "input_image": ("image", "image_url"),
    "video_url": ("video", "video_url"),
    "text": ("text", "text"),
    "input_text": ("text", "text"),
    "output_text": ("text", "text"),
}


def fits(record: dict[str, Any]) -> bool:
    turns = record.get("messages")
    contents = [turn.get("content") for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    kinds = {part.get("type") for c in contents if isinstance(c, list) for part in c if isinstance(part, dict)}
    return any(isinstance(kind, str) and kind != "text" and kind in PARTS for kind in kinds)


def messages(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [_message(turn) for turn in filled_list(record, "messages")]


def _message(turn: Any) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise Malformed(f"a message must be an object, not {short(turn)}")
    role, content = turn.get("role"), turn.get("content")
    message = {"role": "system" if role == "developer" else role, "content": content}
    if isinstance(content, list):
        message["content"] = [_part(part) for part in content]
    said = {**turn, "loss": turn.get("weight", turn.get("loss"))}
    return {**message, **{key: said[key] for key in FLAGS if said.get(key) is not None}}


def _part(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in PARTS:
        return part  # an error, which whoever reads the messages words
    ours, key = PARTS[kind]
    return {"type": ours, ours: part.get(key)}
