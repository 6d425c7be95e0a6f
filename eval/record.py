"""The one record of evaluation: a JSON line per item, and a JSON header per run. Versioned together."""

from dataclasses import asdict, dataclass, field
from typing import Any

VERSION = 1


@dataclass
class ItemRecord:
    """One evaluated item.

    Attributes:
        family, index: which item of the suite.
        question, answer, expected: what was asked, what the model said, what is right.
        score: 1 or 0 for exact-match families; the item's own F1 for slot families.
        counts: for slot families (matched, predicted, expected) slots, so that micro-averages can be rebuilt.
        tokens, forwards, prefill_s, decode_s, finish_reason: cost, see `vlm.answering.Answer`.
    """

    family: str
    index: int
    question: str
    answer: str
    expected: str
    score: float
    counts: tuple[int, int, int] | None
    tokens: int
    forwards: int
    prefill_s: float
    decode_s: float
    finish_reason: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class RunRecord:
    """What an evaluation ran with; stands in ``run.json`` beside the items."""

    suite: str
    model: str
    model_hash: str
    settings: dict[str, Any]
    limit: int
    seed: int
    version: int = VERSION
    libraries: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
