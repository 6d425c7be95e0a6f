"""One question, one answer, and what was said before: LLaMA-Factory's Alpaca shape and ms-swift's query shape.

{"instruction": "…", "input": "…", "output": "…", "history": [["question", "answer"], …], "system": "…", "images": …}
{"query": "…", "response": "…", "history": …, "images": …}
"""

from typing import Any

from data_pipelines.readers.checks import Malformed, short, text
from data_pipelines.readers.placeholders import chat

QUESTION, ANSWER = ("instruction", "query"), ("output", "response")
KEYS = {*QUESTION, *ANSWER, "input", "history", "system", "image", "video", "images", "videos"}


def fits(record: dict[str, Any]) -> bool:
    return any(key in record for key in QUESTION) and any(key in record for key in ANSWER)


def messages(record: dict[str, Any]) -> list[dict[str, Any]]:
    pairs = [*_history(record.get("history") or []), (_question(record), _first(record, ANSWER))]
    return chat(record, [turn for pair in pairs for turn in _turns(*pair)])


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _question(record: dict[str, Any]) -> str:
    pieces = (_first(record, QUESTION), text(record.get("input") or "", "input"))
    return "\n".join(piece for piece in pieces if piece)


def _first(record: dict[str, Any], keys: tuple[str, ...]) -> str:
    key = next((key for key in keys if record.get(key) is not None), keys[0])
    return text(record.get(key), key)


def _history(pairs: Any) -> list[tuple[str, str]]:
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise Malformed(f"history must be a list of pairs, not {short(pairs)}")
    return [(text(question, "history"), text(answer, "history")) for question, answer in pairs]
