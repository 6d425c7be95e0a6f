"""What a run of public benchmarks found: a line a figure, for the terminal and for reports. Needs no lmms-eval."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.document import Block, Code, Heading, Table, Text
from eval.lmms_plugin.responses import Response, read
from eval.suites.public import Benchmark, read_suite

HEADER = (
    "benchmark",
    "kind",
    "grade",
    "task",
    "metric",
    "score",
    "±",
    "n",
    "tokens / forward",
    "seconds",
    "not asked",
)
LISTED = 20
EXPLAINED = (
    "Scores and their standard errors are lmms-eval's. Grade: how sure it is that a benchmark belongs to the suite, "
    "as the suite's file explains. Not asked: questions that could not be put to the model; they count as wrong."
)


def rows(output: Path) -> list[tuple[str, ...]]:
    """A line for every figure of the benchmarks whose tasks are finished."""
    suite, responses = read_suite(str(output / "suite.yaml")), list(read(output).values())
    return [line for entry in suite.benchmarks.values() for line in _lines(output, entry, responses)]


def write_summary(output: Path) -> list[tuple[str, ...]]:
    """``summary.json`` beside the results; returns the lines of `rows`."""
    lines = rows(output)
    text = json.dumps([dict(zip(HEADER, line)) for line in lines], indent=1, ensure_ascii=False)
    (output / "summary.json").write_text(text + "\n", encoding="utf-8")
    return lines


def blocks(output: Path) -> list[Block]:
    """A report of the run in a folder.

    Raises:
        ValueError: it cannot be read, or no task is finished.
    """
    run, lines = _header(output), rows(output)
    if not lines:
        raise ValueError(f"{output}: holds no finished task")
    shown = {"model": run["model"], "weights": run["model_hash"], "documents per task": run["limit"] or "all"}
    shown |= {key: value for key, value in run["settings"].items() if value is not None}
    shown |= {"lmms-eval": run["items"]["lmms_eval"], **run["hardware"], "code": run["code"], **run["libraries"]}
    return [
        Table(HEADER, lines),
        Text(EXPLAINED),
        *_not_asked(list(read(output).values())),
        Heading("Settings, hardware and software"),
        Table(("", "value"), list(shown.items())),
        Heading("The suite"),
        Code((output / "suite.yaml").read_text(encoding="utf-8").rstrip()),
    ]


def _header(output: Path) -> dict[str, Any]:
    try:
        return json.loads((output / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{output}: no results to read ({error})") from error


def _lines(output: Path, entry: Benchmark, responses: Sequence[Response]) -> list[tuple[str, ...]]:
    found = []
    for task in entry.tasks:
        path = output / "results" / f"{task}.json"
        if path.is_file():
            data = json.loads(path.read_text(encoding="utf-8"))
            for name, values in data["results"].items():
                found += _figures(entry, name, values, data.get("n-samples") or {}, responses)
    return found


def _figures(entry: Benchmark, task: str, values: dict, counts: dict, responses) -> list[tuple[str, ...]]:
    """lmms-eval's keys are ``metric,filter`` and ``metric_stderr,filter``."""
    own = [response for response in responses if response.task == task]
    tokens, forwards, seconds = (sum(getattr(r, name) for r in own) for name in ("tokens", "forwards", "seconds"))
    cost = (f"{tokens / forwards:.2f}" if forwards else "–", f"{seconds:.0f}", sum(r.error is not None for r in own))
    n = counts.get(task, {}).get("effective", len(own))
    figures = {key.partition(",")[0]: value for key, value in values.items()}
    return [
        tuple(map(str, (entry.title, entry.kind, entry.grade, task, metric, *_figure(figures, metric), n, *cost)))
        for metric in entry.metric
        if metric in figures
    ]


def _figure(figures: dict[str, Any], metric: str) -> tuple[str, str]:
    score, error = figures[metric], figures.get(f"{metric}_stderr")
    return tuple(f"{value:.4g}" if isinstance(value, (int, float)) else "–" for value in (score, error))


def _not_asked(responses: Sequence[Response]) -> list[Block]:
    failed = [(r.task, r.doc_id, r.error) for r in responses if r.error is not None]
    return (
        [Heading("Not asked, counted as wrong"), Table(("task", "document", "why"), failed[:LISTED])] if failed else []
    )
