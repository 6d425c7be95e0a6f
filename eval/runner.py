"""Run a suite: batches of questions through the engine, a JSON line per item as it comes, resumed where it stopped.

The deciding choice: batches are cut at fixed indices (item i belongs to batch i // size) and written at once, so that
a run that was killed asks the same batches again and ends like one that was not. Of several processes each takes whole
batches, so that they ask what a single one would.
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
from eval.ranks import ALONE, Ranks
from eval.record import ItemRecord, RunRecord
from eval.suites.base import Question, Suite
from vlm.answering import Answer, answer_batch, build_request
from vlm.generation.prefix import PrefixStore
from vlm.generation.request import Request, State
from vlm.generation.trace import Trace

STORE = 128 * 2**20  # bytes: questions about the same picture stand beside each other
TRACED = 1  # items of a family whose decoding is followed pass by pass
SETTINGS = (
    "decoder",
    "mode",
    "policy",
    "policy_args",
    "slots",
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
    ranks: Ranks = ALONE,
) -> tuple[RunRecord, list[ItemRecord]]:
    """Evaluate at most ``limit`` items of each family; lines already in ``output/items.jsonl`` are not redone.

    Of several processes the first returns the items of all, and the others theirs.

    Raises:
        ValueError: another run writes to ``output``, it holds a run with other settings, it cannot be read or
            written, or the suite has no items.
    """
    run = described(model, config, suite, limit, batch_size, name, quantize)
    store = PrefixStore(STORE)
    with continued(output, run, families, ranks) as (done, append), _bar(ranks) as bar:
        for number, family in enumerate(families):
            share = [index for index in range(limit) if ranks.owns(number + index // batch_size)]
            waiting = [index for index in share if (family, index) not in done]
            task = bar.add_task(family, total=len(share), completed=len(share) - len(waiting))
            for batch in _batches(suite.questions(family, waiting) if waiting else (), batch_size):
                records = answered(model, processor, config, suite, batch, store)
                append(records)
                bar.advance(task, len(records))
            bar.update(task, total=sum((family, index) in done for index in share))  # the source may be shorter
    records = [done[key] for family in families for index in range(limit) if (key := (family, index)) in done]
    if not records and ranks.first:
        raise ValueError(f"suite {suite.name}: there is nothing to evaluate in {', '.join(families)}")
    return run, records


def described(
    model, config, suite: Suite, limit: int, batch_size: int, name: str, quantize: str | None = None
) -> RunRecord:
    """What a run of these settings is, here and now."""
    settings = {**{key: getattr(config, key) for key in SETTINGS}, "quantize": quantize}
    run = RunRecord(suite.name, suite.items, name, model_hash(model), settings, limit, suite.seed, batch_size)
    run.code, run.libraries, run.hardware = code_version(), libraries(), hardware(model)
    return run


def _batches(questions: Iterable[Question], size: int) -> Iterator[list[Question]]:
    return (list(batch) for _, batch in groupby(questions, key=lambda question: question.index // size))


def answered(
    model, processor, config, suite: Suite, batch: list[Question], store: PrefixStore | None
) -> list[ItemRecord]:
    """The records of a batch, in order."""
    start = time.perf_counter()
    prepared = [_prepared(processor, config, question) for question in batch]
    good = [(p, q.index < TRACED) for p, q in zip(prepared, batch) if not isinstance(p, str)]
    try:
        found = _asked(model, processor, config, good, store) if good else []
    except ValueError:  # one request is illegal, its prompt too long, say: answer each alone to find it
        found = [_alone(model, processor, config, pair, store) for pair in good]
    answers = iter(found)
    results = [(request, None) if isinstance(request, str) else next(answers) for request in prepared]
    seconds = round((time.perf_counter() - start) / len(batch), 4)
    return [_record(suite, question, *result, seconds) for question, result in zip(batch, results)]


def _prepared(processor, config, question: Question):
    """A request, or the reason why there is none."""
    if question.error is not None:
        return question.error
    try:
        return build_request(processor, question.messages, question.media, config.seed)
    except ValueError as error:
        return f"item {question.index}: {error}"


def _asked(
    model, processor, config, wanted: list[tuple[Request, bool]], store: PrefixStore | None
) -> list[tuple[Answer, dict | None]]:
    """Answers of requests decoded together, with the traces of those that are to be followed."""
    tokenizer, mask_id = processor.tokenizer, model.config.traits.mask_token_id
    traces = [Trace(mask_id, lambda token: tokenizer.decode([token])) if followed else None for _, followed in wanted]
    requests = [request for request, _ in wanted]

    def on_step(states: list[State]) -> None:
        for request, trace in zip(requests, traces):
            own = [state for state in states if state.request is request]
            if trace is not None and own:
                trace(own)

    answers = answer_batch(model, processor, requests, config, on_step if any(traces) else None, store)
    return [(answer, trace.record() if trace and trace.steps else None) for answer, trace in zip(answers, traces)]


def _alone(model, processor, config, wanted: tuple[Request, bool], store: PrefixStore | None):
    try:
        return _asked(model, processor, config, [wanted], store)[0]
    except ValueError as error:
        return str(error), None


def _record(suite: Suite, asked: Question, result: Answer | str, trace: dict | None, seconds: float) -> ItemRecord:
    """What could not be asked counts as wrong."""
    item, metric = (asked.family, asked.index, asked.question), suite.metrics[asked.family]
    if isinstance(result, str):
        cost = (0, 0, 0.0, 0.0, seconds, "not asked")
        loose = None if suite.loose is None else 0.0
        return ItemRecord(*item, "", asked.expected, metric, 0.0, None, *cost, loose=loose, error=result)
    value, counts = suite.score(asked, result.answer)
    loose = None if suite.loose is None else suite.loose(asked, result.answer)
    cost = (result.tokens, result.forwards, result.prefill_s, result.decode_s, seconds, result.finish_reason)
    return ItemRecord(*item, result.answer, asked.expected, metric, value, counts, *cost, loose=loose, trace=trace)


def _bar(ranks: Ranks) -> Progress:
    """One of the first process, of its own share."""
    columns = (TextColumn("{task.description:12s}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(file=sys.stderr), disable=not ranks.first)
