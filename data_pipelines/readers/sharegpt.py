"""ShareGPT and plain messages with media lists, as LLaMA-Factory and ms-swift have them.

    {"messages" | "conversations": [{"role": "user", "content": "<image>…"}, …], "images": [...], "videos": [...],
     "system": "…"}

A message may say ``"loss": false``: it is read as context and not learnt. ``"spelled": true``: see `vlm.spelling`.
"""

from typing import Any

from data_pipelines.readers.checks import filled_list
from data_pipelines.readers.placeholders import chat

KEYS = {"messages", "conversations", "image", "video", "images", "videos", "system"}


def fits(record: dict[str, Any]) -> bool:
    return "messages" in record or "conversations" in record


def messages(record: dict[str, Any]) -> list[dict[str, Any]]:
    return chat(record, filled_list(record, "conversations" if "conversations" in record else "messages"))
