"""One's own data as a suite: any source that ``data_pipelines.readers.read`` understands, and the name of a metric.

    python -m eval run --suite local --source MMBench.tsv --metric multiple_choice

A sample is asked its last question; what was said before is context, as the source has it. The last answer is the
expected one, unless the record lists several under ``answers`` (or the answer is itself a list, written as text).
A record that cannot be read, has no answer, or shows a picture that is damaged counts as wrong and is listed.
"""

import ast
import hashlib
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.media import open_media
from data_pipelines.readers import BadLine, read
from data_pipelines.readers.addresses import is_address
from data_pipelines.record import Sample
from eval.metrics import (
    anls,
    exact_match,
    json_validity,
    multiple_choice,
    relaxed_accuracy,
    slot_f1,
    things_in,
    vqa_accuracy,
)
from eval.suites.base import Question, Suite, short_pair
from vision_encoders.config import nearest

Metric = Callable[[str, Question], float]


def _best(metric: Callable[[str, str], float]) -> Metric:
    """The score against the reference that suits the answer best."""
    return lambda answer, asked: max(metric(answer, reference) for reference in asked.references)


METRICS: dict[str, Metric] = {
    "exact_match": _best(exact_match),
    "relaxed_accuracy": _best(relaxed_accuracy),
    "anls": lambda answer, asked: anls(answer, asked.references),
    "vqa_accuracy": lambda answer, asked: vqa_accuracy(answer, asked.references),
    "multiple_choice": lambda answer, asked: max(multiple_choice(answer, r, asked.choices) for r in asked.references),
    "slot_f1": _best(slot_f1),
    "json_validity": lambda answer, asked: json_validity(answer),
}


def suite(source: str, metric: str, media_root: str | None = None) -> Suite:
    """A suite of one family, called like the source.

    Raises:
        ValueError: for an unknown metric, with the nearest ones.
        DataError: the source is missing, empty or of no known kind.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; {nearest(metric, METRICS)}")
    if is_address(source):
        raise DataError(f"{source}: an address: what it holds may change between two runs; a suite's source is a file")
    read(source, media_root=media_root)  # refuses what it cannot read before a model is loaded
    family = Path(source).resolve().stem
    items = {"source": source, "metric": metric, "media_root": media_root, "sha256": _digest(Path(source))}

    def questions(_: str, indices: Sequence[int]) -> Iterator[Question]:
        wanted = set(indices)
        samples = islice(read(source, media_root=media_root), max(wanted, default=-1) + 1)
        return (question(family, i, sample, metric) for i, sample in enumerate(samples) if i in wanted)

    def score(asked: Question, answer: str) -> tuple[float, None]:
        return METRICS[metric](answer, asked), None

    return Suite("local", 0, items, {family: metric}, questions, score, short_pair)


def question(family: str, index: int, sample: Sample | BadLine, metric: str) -> Question:
    """A sample's last question with its media opened; one with an error if it cannot be asked or scored."""
    if isinstance(sample, BadLine):
        return Question(family, index, [], [], "", "", error=sample.reason)
    *context, last = sample.messages
    answered = last["role"] == "assistant"
    references = _references(sample.meta.get("answers"), _text(last) if answered else None)
    context = context if answered else [*context, last]
    choices = {c: str(sample.meta[c]) for c in string.ascii_uppercase if sample.meta.get(c) is not None}
    shown = " | ".join(dict.fromkeys(references))
    asked = Question(family, index, context, [], _text(context[-1]) if context else "", shown, references, choices)
    try:
        _check(sample, asked, metric)
        return replace(asked, media=open_media(context))
    except DataError as error:
        return replace(asked, messages=[], error=str(error))


def _check(sample: Sample, asked: Question, metric: str) -> None:
    """DataError if there is nothing to ask or nothing to score an answer by."""
    where = f"{sample.source}: sample {sample.id}"
    if not asked.messages:
        raise DataError(f"{where}: holds an answer and no question")
    if not asked.references and metric != "json_validity":
        raise DataError(f"{where}: holds no answer to score by")
    if metric == "slot_f1" and any(things_in(reference) is None for reference in asked.references):
        raise DataError(f"{where}: its answer is not a JSON object or an array of them, which slot_f1 needs")


def _references(listed: Any, answer: str | None) -> tuple[str, ...]:
    """The record's list of answers (plain, or VQA's objects), or a list written as text, or the answer alone."""
    if not (isinstance(listed, list) and listed):
        listed = _list_in(answer or "") or ([] if answer is None else [answer])
    return tuple(str(entry.get("answer") if isinstance(entry, dict) else entry) for entry in listed)


def _list_in(text: str) -> list[str] | None:
    """The texts of ``['a', 'b']``; None if ``text`` is no such list."""
    if not text.lstrip().startswith("["):
        return None
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, list) and all(isinstance(entry, str) for entry in value) else None


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else " ".join(p["text"] for p in content if p["type"] == "text")


def _digest(source: Path) -> str:
    """SHA-256 of the source's own files (not of media beside them): a changed one is another run."""
    files = sorted(path for path in source.iterdir() if path.is_file()) if source.is_dir() else [source]
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
