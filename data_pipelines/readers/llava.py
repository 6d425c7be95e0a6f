"""LLaVA: ``{"image": path | [paths], "video": …, "conversations": [{"from": "human", "value": "<image>\\n…"}, …]}``.

A ``system`` turn may come first. ``<image>`` may stand for a video.
"""

from typing import Any

from data_pipelines.readers.checks import filled_list
from data_pipelines.readers.placeholders import chat

KEYS = {"conversations", "image", "video", "images", "videos", "system"}


def fits(record: dict[str, Any]) -> bool:
    return "conversations" in record and not ("images" in record or "videos" in record)


def messages(record: dict[str, Any]) -> list[dict[str, Any]]:
    return chat(record, filled_list(record, "conversations"))
