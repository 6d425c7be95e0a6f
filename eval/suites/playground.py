"""The playground's held-out split as a suite: families of items with exact-match or slot-F1 scores."""

from collections.abc import Iterator, Sequence
from typing import Any

from data_pipelines.playground import EVALUATED, item
from data_pipelines.playground.describe import parse as parse_description
from data_pipelines.playground.scene_json import parse as parse_json
from data_pipelines.record import image_part, text_part, video_part
from eval.metrics.slots import agreement, f1, matching, slot_counts
from eval.metrics.text import exact_match
from eval.record import ItemRecord
from eval.suites.base import Counts, Question, Suite, named, short_pair

FAMILIES = tuple(EVALUATED)
SLOT_PARSERS = {"describe": parse_description, "json": parse_json}
ATTRIBUTES = ("shape", "color", "position", "size")


def suite(seed: int) -> Suite:
    """The held-out items of one seed."""
    metrics = {family: "slot-F1" if family in SLOT_PARSERS else "accuracy" for family in FAMILIES}

    def questions(family: str, indices: Sequence[int]) -> Iterator[Question]:
        return (question(family, seed, index) for index in indices)

    def scored(asked: Question, answer: str) -> tuple[float, Counts | None]:
        return score(asked.family, answer, asked.expected)

    return Suite("playground", seed, {}, metrics, questions, scored, confused)


def families_named(names: str | None) -> list[str]:
    """See `eval.suites.base.named`."""
    return named(names, FAMILIES)


def question(family: str, seed: int, index: int) -> Question:
    """Item ``index`` of a family's held-out stream, its first turn asked."""
    made = item(family, "heldout", seed, index)
    turn = made.turns[0]
    media = made.media if made.kind == "image" else [made.media]
    part = image_part if made.kind == "image" else video_part
    content = [*map(part, media), text_part(turn.question)]
    return Question(family, index, [{"role": "user", "content": content}], media, turn.question, turn.answer)


def score(family: str, answer: str, expected: str) -> tuple[float, Counts | None]:
    """(score, slot counts or None): exact match, or F1 of (thing, attribute, value) for described scenes."""
    if family not in SLOT_PARSERS:
        return exact_match(answer, expected), None
    predicted, truth = (_things(SLOT_PARSERS[family](text)) for text in (answer, expected))
    counts = slot_counts(predicted, truth)
    return f1(*counts), counts


def confused(record: ItemRecord) -> list[tuple[str, str]]:
    """(expected, said): the short answer, or of matched things each attribute that differs, and things without match.

    Things that share no slot are not taken for one another.
    """
    if record.family not in SLOT_PARSERS:
        return short_pair(record)
    predicted, truth = (_things(SLOT_PARSERS[record.family](text)) for text in (record.answer, record.expected))
    agree = agreement(predicted, truth)
    pairs = [(predicted[i], truth[j]) for i, j in matching(agree) if agree[i, j]]
    wrong = [(e[k], p.get(k, "not said")) for p, e in pairs for k in ATTRIBUTES if p.get(k) != e[k]]
    missed, invented = len(truth) - len(pairs), len(predicted) - len(pairs)
    return wrong + [("a thing", "not named")] * missed + [("nothing", "a thing that is not there")] * invented


def _things(parsed: list[Any]) -> list[dict[str, str]]:
    """Only the four attributes, as text: whatever else an answer holds is no slot."""
    return [{k: str(t[k]) for k in ATTRIBUTES if k in t} for t in parsed if isinstance(t, dict)]
