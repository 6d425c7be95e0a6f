"""FineVision and the_cauldron: ``{"images": [...], "texts": [{"user": "…", "assistant": "…"}, …]}``.

The images, and videos if there are any, belong to the first question, in order, unless the questions themselves hold
placeholders.
"""

from typing import Any

from data_pipelines.readers.checks import Malformed, filled_list, short, text
from data_pipelines.readers.placeholders import chat, has_placeholder, listed

KEYS = {"texts", "images", "image", "videos", "video"}


def fits(record: dict[str, Any]) -> bool:
    return isinstance(record.get("texts"), list)


def messages(record: dict[str, Any]) -> list[dict[str, Any]]:
    pairs = [_pair(turn) for turn in filled_list(record, "texts")]
    turns = [{"role": role, "content": said} for pair in pairs for role, said in zip(("user", "assistant"), pair)]
    if not any(has_placeholder(question) for question, _ in pairs):
        heads = (f"<{kind}>\n" * len(listed(record, kind)) for kind in ("image", "video"))
        turns[0]["content"] = "".join([*heads, turns[0]["content"]])
    return chat(record, turns)


def _pair(turn: Any) -> tuple[str, str]:
    if not isinstance(turn, dict):
        raise Malformed(f"an item of texts must be an object, not {short(turn)}")
    return text(turn.get("user"), "user"), text(turn.get("assistant"), "assistant")
