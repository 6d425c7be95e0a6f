"""Requests from a JSONL file to answers in a JSONL file: in order, restartable, one bad request never stops the rest.

Answers are appended as their batch ends; a rerun skips every id that already has an answer line.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_pipelines.errors import DataError
from data_pipelines.media import open_media
from data_pipelines.readers.messages import BadLine, read_messages
from data_pipelines.record import Sample
from vlm.answering import answer_batch, build_request


def run_batch(model, processor, config, source: str, target: str, batch_size: int, frames: int, name: str) -> int:
    """Answer every request of ``source``; returns how many failed, those of earlier runs not counted.

    Raises:
        DataError: if ``source`` cannot be read or ``target`` cannot be written.
    """
    lines = list(read_messages(source))
    done = _answered(Path(target))
    waiting = [line for line in lines if line.id not in done]
    failed = 0
    with _open(target) as file, _bar() as bar:
        task = bar.add_task("", total=len(lines), completed=len(lines) - len(waiting))
        for start in range(0, len(waiting), batch_size):
            for record in _answers(model, processor, config, waiting[start : start + batch_size], frames, name):
                failed += "error" in record
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                bar.advance(task)
            file.flush()
    return failed


def _answers(model, processor, config, lines: list, frames: int, name: str) -> Iterator[dict]:
    """One record per line, in order."""
    prepared = [_prepare(processor, line, frames, config.seed) for line in lines]
    good = [request for request in prepared if not isinstance(request, str)]
    try:
        answers = iter([answer.to_dict() for answer in answer_batch(model, processor, good, config)] if good else [])
    except ValueError:  # one request is illegal, its prompt too long, say: answer each alone to find it
        answers = iter([_alone(model, processor, config, request) for request in good])
    results = [request if isinstance(request, str) else next(answers) for request in prepared]
    for line, result in zip(lines, results):
        yield {"id": line.id, "error": result} if isinstance(result, str) else {"id": line.id, **result, "model": name}


def _alone(model, processor, config, request) -> dict | str:
    try:
        return answer_batch(model, processor, [request], config)[0].to_dict()
    except ValueError as error:
        return str(error)


def _prepare(processor, line: Sample | BadLine, frames: int, seed: int):
    """A request, or the reason why there is none."""
    if isinstance(line, BadLine):
        return line.reason
    try:
        return build_request(processor, line.messages, open_media(line.messages, frames), seed)
    except ValueError as error:  # DataError included
        return str(error)


def _answered(target: Path) -> set[str]:
    """Ids with an answer in an earlier run's file; a line cut off by a kill does not count."""
    if not target.exists():
        return set()
    done = set()
    for line in target.read_text(encoding="utf-8").splitlines():
        try:
            done.add(json.loads(line)["id"])
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    return done


def _open(target: str):
    try:
        text = Path(target).read_text(encoding="utf-8") if Path(target).exists() else ""
        file = open(target, "a", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror})") from error
    if text and not text.endswith("\n"):
        file.write("\n")  # a run was killed inside a line
    return file


def _bar() -> Progress:
    columns = (TextColumn("answering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(file=sys.stderr))
