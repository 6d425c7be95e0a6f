"""Requests from a JSONL file to answers in a JSONL file: in order, restartable, one bad request never stops the rest.

Answers are appended as their batch ends; a rerun skips every id that already has its line, be it an answer or an
error, and drops a line that a kill cut off. So a run that was interrupted and resumed leaves the file, and returns the
count, of one that never was.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_pipelines.errors import DataError
from data_pipelines.media import open_media
from data_pipelines.readers.messages import BadLine, read_messages
from data_pipelines.record import Sample
from vlm.answering import GRAMMARS, Answer, answer_batch, build_request, own_strategy, settings
from vlm.generation.prefix import PrefixStore

START = b'{"id": '  # how every line of answers begins


def run_batch(
    model, processor, config, source: str, target: str, batch_size: int, frames: int, name: str, grammar=None
) -> int:
    """Answer every request of ``source``; returns how many of them failed, in this run or an earlier one.

    A request's own fields (`vlm.answering.SETTINGS`, ``SAMPLING``, ``GRAMMARS``, ``seed``, ``logprobs``) prevail over
    ``config`` and ``grammar``.

    Raises:
        DataError: if ``source`` cannot be read, or ``target`` cannot be written or is not a file of answers.
    """
    lines = list(read_messages(source))
    if os.path.exists(target) and os.path.samefile(source, target):
        raise DataError(f"{target}: is the file of requests; answers need another one")
    try:
        return _run(model, processor, config, lines, target, batch_size, frames, name, grammar or {})
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror})") from error


def _run(
    model, processor, config, lines: list, target: str, batch_size: int, frames: int, name: str, grammar: dict
) -> int:
    done = _finished(Path(target))
    waiting = [line for line in lines if line.id not in done]
    failed = sum(done.get(line.id, False) for line in lines)
    store = PrefixStore()  # requests about the same picture read it once
    with open(target, "a", encoding="utf-8") as file, _bar() as bar:
        task = bar.add_task("", total=len(lines), completed=len(lines) - len(waiting))
        for start in range(0, len(waiting), batch_size):
            part = waiting[start : start + batch_size]
            for record in _answers(model, processor, config, part, frames, name, grammar, store):
                failed += "error" in record
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                bar.advance(task)
            file.flush()
    return failed


def _answers(
    model, processor, config, lines: list, frames: int, name: str, grammar: dict, store: PrefixStore
) -> Iterator[dict]:
    """One record per line, in order."""
    prepared = [_prepare(model, processor, config, line, frames, grammar) for line in lines]
    good = [request for request in prepared if not isinstance(request, str)]
    told = [line.meta.get("logprobs") is True for line, p in zip(lines, prepared) if not isinstance(p, str)]
    try:
        found = answer_batch(model, processor, good, config, store=store, logprobs=True) if good else []
    except ValueError:  # one request is illegal, its prompt too long, say: answer each alone to find it
        found = [_alone(model, processor, config, request, store) for request in good]
    answers = iter([_told(answer, logprobs) for answer, logprobs in zip(found, told)])
    results = [request if isinstance(request, str) else next(answers) for request in prepared]
    for line, result in zip(lines, results):
        yield {"id": line.id, "error": result} if isinstance(result, str) else {"id": line.id, **result, "model": name}


def _told(answer: Answer | str, logprobs: bool) -> dict | str:
    """What a line of answers says of an answer; an error stays as it is."""
    if isinstance(answer, str):
        return answer
    return (answer if logprobs else replace(answer, logprobs=None)).to_dict()


def _alone(model, processor, config, request, store) -> Answer | str:
    try:
        return answer_batch(model, processor, [request], config, store=store, logprobs=True)[0]
    except ValueError as error:
        return str(error)


def _prepare(model, processor, config, line: Sample | BadLine, frames: int, grammar: dict):
    """A request that knows its own settings, or the reason why there is none."""
    if isinstance(line, BadLine):
        return line.reason
    try:
        own = any(name in line.meta for name in GRAMMARS)
        strategy = own_strategy(model, processor, config, {**({} if own else grammar), **line.meta})
        seed = settings(model, config, processor.tokenizer, seed=int(line.meta.get("seed", config.seed))).seed
        request = build_request(processor, line.messages, open_media(line.messages, frames), seed)
    except (ValueError, TypeError, OverflowError) as error:  # DataError included
        return str(error)
    request.strategy = strategy
    return request


def _finished(target: Path) -> dict[str, bool]:
    """The ids an earlier run has finished, and whether they failed; its cut-off last line is taken off the file."""
    if not target.is_file():
        return {}
    *lines, cut_off = target.read_bytes().split(b"\n")
    finished = dict(_outcome(line, f"{target}:{number}") for number, line in enumerate(lines, 1))
    if not (cut_off.startswith(START) or START.startswith(cut_off)):
        raise DataError(f"{target}:{len(lines) + 1}: not a line of answers; is this the right file?")
    if cut_off:
        os.truncate(target, target.stat().st_size - len(cut_off))
    return finished


def _outcome(line: bytes, place: str) -> tuple[str, bool]:
    """A line's id, and whether it is an error."""
    try:
        record = json.loads(line)
        return record["id"], "error" in record
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{place}: not a line of answers; is this the right file?") from error


def _bar() -> Progress:
    columns = (TextColumn("answering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(file=sys.stderr))
