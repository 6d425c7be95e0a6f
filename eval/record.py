"""The one record of evaluation: a JSON line per item, and a JSON header per run. Versioned together."""

from dataclasses import asdict, dataclass, field
from typing import Any

VERSION = 4
READABLE = (3, 4)  # 3 had no loose scores


@dataclass
class ItemRecord:
    """One evaluated item.

    Attributes:
        family, index: which item of the suite.
        question, answer, expected: what was asked, what the model said, what is right.
        metric: what ``score`` is: accuracy, slot-F1, anls ...
        score: in [0, 1]; the item's own F1 for slot families.
        counts: for slot families (matched, predicted, expected) slots, so that micro-averages can be rebuilt.
        tokens, forwards, prefill_s, decode_s, finish_reason: cost, see `vlm.answering.Answer`.
        seconds: its share of its batch's wall time, reading its media included; these add up to the run's.
        loose: where a suite reads answers in two ways, the score of the lenient one; ``score`` is the strict one's.
        error: why it could not be asked; it then counts as wrong. None for an item that was asked.
        trace: of the first item of a family, which pass wrote what, see `vlm.generation.trace.Trace.record`.
    """

    family: str
    index: int
    question: str
    answer: str
    expected: str
    metric: str
    score: float
    counts: tuple[int, int, int] | None
    tokens: int
    forwards: int
    prefill_s: float
    decode_s: float
    seconds: float
    finish_reason: str
    loose: float | None = None
    error: str | None = None
    trace: dict[str, Any] | None = None

    @property
    def row(self) -> tuple[float, float, float]:
        """The item as `eval.metrics.intervals` counts it."""
        return self.counts if self.counts is not None else (self.score, 1, 1)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class RunRecord:
    """What an evaluation ran with; stands in ``run.json`` beside the items.

    Attributes:
        suite, items: the suite's name, and what beside ``seed`` decides its items (for ``local`` the source).
        model, model_hash: what it was called, and a fingerprint of the very weights, quantised or not.
        settings: of decoding.
        limit: most items per family.
        code: the package's version, and the commit if it runs from a repository.
        hardware: what the times were measured on, at its latest start if there were several.
    """

    suite: str
    items: dict[str, Any]
    model: str
    model_hash: str
    settings: dict[str, Any]
    limit: int
    seed: int
    batch_size: int
    version: int = VERSION
    code: str = ""
    libraries: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
