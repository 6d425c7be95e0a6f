"""The playground's held-out split as a suite: families of items with exact-match or slot-F1 scores."""

from dataclasses import dataclass
from typing import Any

from data_pipelines.playground import EVALUATED, item
from data_pipelines.playground.describe import parse as parse_description
from data_pipelines.playground.scene_json import parse as parse_json
from data_pipelines.record import image_part, text_part, video_part
from eval.metrics import exact_match, f1, slot_counts
from vision_encoders.config import nearest

FAMILIES = tuple(EVALUATED)
SLOT_PARSERS = {"describe": parse_description, "json": parse_json}
ATTRIBUTES = ("shape", "color", "position", "size")


@dataclass(frozen=True)
class Question:
    """One item as the model sees it, and what it should say."""

    family: str
    index: int
    messages: list[dict[str, Any]]
    media: list[Any]
    question: str
    expected: str


def families_named(names: str | None) -> list[str]:
    """The families of a comma-separated list, each once; all of them without a list.

    Raises:
        ValueError: for a name that is no family, with the nearest ones.
    """
    chosen = list(dict.fromkeys(names.split(","))) if names is not None else list(FAMILIES)
    for name in chosen:
        if name not in FAMILIES:
            raise ValueError(f"unknown family {name!r}; {nearest(name, FAMILIES)}")
    return chosen


def question(family: str, seed: int, index: int) -> Question:
    """Item ``index`` of a family's held-out stream, its first turn asked."""
    made = item(family, "heldout", seed, index)
    turn = made.turns[0]
    media = made.media if made.kind == "image" else [made.media]
    part = image_part if made.kind == "image" else video_part
    content = [*map(part, media), text_part(turn.question)]
    return Question(family, index, [{"role": "user", "content": content}], media, turn.question, turn.answer)


def score(family: str, answer: str, expected: str) -> tuple[float, tuple[int, int, int] | None]:
    """(score, slot counts or None): exact match, or F1 of (thing, attribute, value) for described scenes."""
    if family not in SLOT_PARSERS:
        return exact_match(answer, expected), None
    predicted, truth = (_things(SLOT_PARSERS[family](text)) for text in (answer, expected))
    counts = slot_counts(predicted, truth)
    return f1(*counts), counts


def _things(parsed: list[Any]) -> list[dict[str, str]]:
    """Only the four attributes, as text: whatever else an answer holds is no slot."""
    return [{k: str(t[k]) for k in ATTRIBUTES if k in t} for t in parsed if isinstance(t, dict)]
