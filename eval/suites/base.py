"""What a suite is: named families, their questions in order, and how an answer is scored.

The deciding choice: a suite is a handful of functions, and its questions come one after the other and are not kept, so
a source of any length needs the memory of one batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.record import ItemRecord
from vision_encoders.config import nearest

Counts = tuple[int, int, int]


@dataclass(frozen=True)
class Question:
    """One item as the model sees it, and what it should say.

    Attributes:
        messages, media: as `vlm.answering.build_request` takes them.
        question, expected: the asked text and the right answer, as a report shows them.
        references: every right answer, where there may be several.
        choices: text by letter of a multiple-choice question.
        error: why it cannot be asked, one line that names the file; such an item counts as wrong.
    """

    family: str
    index: int
    messages: list[dict[str, Any]]
    media: list[Any]
    question: str
    expected: str
    references: tuple[str, ...] = ()
    choices: dict[str, str] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Suite:
    """A suite ready to be asked.

    Attributes:
        name: ``playground``, ``parallel_bench`` or ``local``.
        seed: of its items; 0 where they are given.
        items: what beside ``seed`` decides the items; two runs with equal ones saw the same questions.
        metrics: metric by family, in the order of the tables.
        questions: (family, ascending indices) → those questions, fewer if the source ends before.
        score: (question, answer) → score in [0, 1], and slot counts if the family's score is micro-averaged.
        confused: a wrong item → (expected, said) pairs, for the list of frequent confusions.
        loose: (question, answer) → score of a lenient reading, where the suite has one beside ``score``.
    """

    name: str
    seed: int
    items: dict[str, Any]
    metrics: dict[str, str]
    questions: Callable[[str, Sequence[int]], Iterator[Question]]
    score: Callable[[Question, str], tuple[float, Counts | None]]
    confused: Callable[[ItemRecord], list[tuple[str, str]]]
    loose: Callable[[Question, str], float] | None = None


def named(names: str | None, known: Sequence[str], what: str = "family") -> list[str]:
    """The families of a comma-separated list, each once; all of them without a list.

    Args:
        what: what an error calls them.

    Raises:
        ValueError: for a name that is not known, with the nearest ones.
    """
    chosen = list(dict.fromkeys(names.split(","))) if names is not None else list(known)
    for name in chosen:
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}; {nearest(name, known)}")
    return chosen


def short_pair(record: ItemRecord) -> list[tuple[str, str]]:
    """A short answer's confusion: what was expected, and what was said."""
    return [(_short(record.expected), _short(record.answer))]


def _short(text: str, most: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
