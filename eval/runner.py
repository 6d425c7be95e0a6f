"""Run a suite: batches of questions through the engine, a JSON line per item as it comes, resumed where it stopped.

The deciding choice: batches are cut at fixed indices (item i belongs to batch i // size) and written at once, so that
a run that was killed asks the same batches again and ends like one that was not.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eval.environment import code_version, hardware, libraries, model_hash
from eval.output import continued
from eval.record import ItemRecord, RunRecord
from eval.suites.base import Question, Suite
from vlm.answering import Answer, answer_batch, build_request
from vlm.generation.prefix import PrefixStore

STORE = 128 * 2**20  # bytes: questions about the same picture stand beside each other
SETTINGS = (
    "mode",
    "policy",
    "policy_args",
    "block_size",
    "denoising_steps",
    "threshold",
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "stop_strings",
    "seed",
)


def evaluate(
    model,
    processor,
    config,
    suite: Suite,
    families: list[str],
    limit: int,
    batch_size: int,
    output: Path,
    name: str,
    quantize: str | None = None,
) -> tuple[RunRecord, list[ItemRecord]]:
    """Evaluate at most ``limit`` items of each family; lines already in ``output/items.jsonl`` are not redone.

    Raises:
        ValueError: another run writes to ``output``, it holds a run with other settings, it cannot be read or
            written, or the suite has no items.
    """
    settings = {**{key: getattr(config, key) for key in SETTINGS}, "quantize": quantize}
    run = RunRecord(suite.name, suite.items, name, model_hash(model), settings, limit, suite.seed, batch_size)
    run.code, run.libraries, run.hardware = code_version(), libraries(), hardware(model)
    store = PrefixStore(STORE)
    with continued(output, run) as (done, append), _bar() as bar:
        for family in families:
            waiting = [index for index in range(limit) if (family, index) not in done]
            task = bar.add_task(family, total=limit, completed=limit - len(waiting))
            for batch in _batches(suite.questions(family, waiting) if waiting else (), batch_size):
                records = _answered(model, processor, config, suite, batch, store)
                append(records)
                done.update({(family, record.index): record for record in records})
                bar.advance(task, len(records))
            bar.update(task, total=sum((family, index) in done for index in range(limit)))  # the source may be shorter
    records = [done[key] for family in families for index in range(limit) if (key := (family, index)) in done]
    if not records:
        raise ValueError(f"suite {suite.name}: there is nothing to evaluate in {', '.join(families)}")
    return run, records


def _batches(questions: Iterable[Question], size: int) -> Iterator[list[Question]]:
    return (list(batch) for _, batch in groupby(questions, key=lambda question: question.index // size))


def _answered(model, processor, config, suite: Suite, batch: list[Question], store: PrefixStore) -> list[ItemRecord]:
    """The records of a batch, in order."""
    start = time.perf_counter()
    prepared = [_prepared(processor, config, question) for question in batch]
    good = [request for request in prepared if not isinstance(request, str)]
    try:
        found = answer_batch(model, processor, good, config, store=store) if good else []
    except ValueError:  # one request is illegal, its prompt too long, say: answer each alone to find it
        found = [_alone(model, processor, config, request, store) for request in good]
    answers = iter(found)
    results = [request if isinstance(request, str) else next(answers) for request in prepared]
    seconds = round((time.perf_counter() - start) / len(batch), 4)
    return [_record(suite, question, result, seconds) for question, result in zip(batch, results)]


def _prepared(processor, config, question: Question):
    """A request, or the reason why there is none."""
    if question.error is not None:
        return question.error
    try:
        return build_request(processor, question.messages, question.media, config.seed)
    except ValueError as error:
        return f"item {question.index}: {error}"


def _alone(model, processor, config, request, store: PrefixStore) -> Answer | str:
    try:
        return answer_batch(model, processor, [request], config, store=store)[0]
    except ValueError as error:
        return str(error)


def _record(suite: Suite, asked: Question, result: Answer | str, seconds: float) -> ItemRecord:
    """What could not be asked counts as wrong."""
    item, metric = (asked.family, asked.index, asked.question), suite.metrics[asked.family]
    if isinstance(result, str):
        cost = (0, 0, 0.0, 0.0, seconds, "not asked")
        return ItemRecord(*item, "", asked.expected, metric, 0.0, None, *cost, error=result)
    value, counts = suite.score(asked, result.answer)
    cost = (result.tokens, result.forwards, result.prefill_s, result.decode_s, seconds, result.finish_reason)
    return ItemRecord(*item, result.answer, asked.expected, metric, value, counts, *cost)


def _bar() -> Progress:
    columns = (TextColumn("{task.description:12s}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(file=sys.stderr))
