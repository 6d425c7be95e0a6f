"""VLMEvalKit's columns: ``index, image (base64) | image_path, question, answer``, choices ``A B C …``, ``hint``.

The prompt is the hint, the question, then a line a choice. Answer, choices and category stay in ``meta`` for a metric.
``image`` and ``image_path`` may be one, a list, or a list written as text.
"""

import ast
import string
from typing import Any

from data_pipelines.readers.checks import Malformed, short, text
from data_pipelines.readers.resolve import from_base64

KEYS = {"index", "image", "image_path", "question", "hint"}


def fits(record: dict[str, Any]) -> bool:
    return "question" in record


def messages(record: dict[str, Any]) -> list[dict[str, Any]]:
    values = [_image(value) for value in _several(record.get("image"))] or _several(record.get("image_path"))
    parts = [{"type": "image", "image": value} for value in values]
    prompt = _prompt(record)
    turns = [{"role": "user", "content": [*parts, {"type": "text", "text": prompt}] if parts else prompt}]
    if record.get("answer") is not None:
        turns.append({"role": "assistant", "content": str(record["answer"])})
    return turns


def _prompt(record: dict[str, Any]) -> str:
    choices = [f"{letter}. {record[letter]}" for letter in string.ascii_uppercase if record.get(letter) is not None]
    lines = [record.get("hint"), text(record.get("question"), "question"), *choices]
    return "\n".join(text(line, "hint") for line in lines if line is not None)


def _image(value: Any) -> Any:
    return from_base64(value, "image") if isinstance(value, str) else value


def _several(value: Any) -> list[Any]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise Malformed(f"{short(value)} is not a list") from error
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]
