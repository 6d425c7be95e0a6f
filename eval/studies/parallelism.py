"""ParallelBench: what score is left when more tokens are written in one pass.

    python -m eval.studies parallelism --model runs/lists/final

The tasks that `eval.suites.parallel_bench` has made anew, as text unless ``--families`` names drawn ones, under a
fixed number of tokens a pass and under thresholds. A checkpoint that has not learned the tasks scores nothing at any
pace; the study then says that there is nothing to compare, and a task without a right answer at one token a pass takes
no part in a verdict.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from eval.document import Block, Figure, Heading, Table, Text, to_markdown
from eval.environment import hardware, model_hash
from eval.metrics.intervals import middle
from eval.record import ItemRecord
from eval.studies.decoders_report import NOTHING
from eval.studies.decoding import (
    AR,
    FEWEST,
    Answers,
    answer_all,
    per_forward,
    score,
    score_difference,
    score_draws,
)
from eval.studies.drawing import draw_lines
from eval.studies.frame import Arm, Claim, Interval, opened, write_json
from eval.studies.report import claims_table
from eval.suites import parallel_bench
from eval.suites.base import named
from eval.summary import by_family, loose_scores
from vlm.checkpoints.load import load

LIMIT = 15
MAX_NEW_TOKENS = 64  # as published for the longer tasks
THRESHOLDS = (0.5, 0.7, 0.9, 0.99)
SOURCE = "ParallelBench, arXiv 2510.04767; abstract"
# Tasks with many right answers, whose tokens must agree with one another, and tasks with one that the prompt fixes.
DEPENDENT = ("shuffle", "insert_random", "remove_random", "replace_random", "latin_square", "sentence")
FIXED = ("copy", "insert_index", "remove_index", "replace_index")
SLOWEST = "1 a pass"


def study(
    output: Path, model: str | None = None, families: str | None = None, limit: int = LIMIT, seed: int = 1
) -> str:
    """Run what is missing of the study; returns its report, which also stands in ``output``.

    Raises:
        ValueError: for an unknown task, a model that cannot be read, or another study in ``output``.
    """
    chosen = named(families, parallel_bench.FAMILIES) if families else list(parallel_bench.TASKS)
    loaded, processor = load(model)
    suite, name = parallel_bench.suite(seed), model or "embedded"
    with opened(output, {"study": "parallelism", "model": model_hash(loaded), "seed": seed}):
        arms = arms_of(loaded, seed)
        answers = answer_all(loaded, processor, suite, chosen, limit, arms, output / suite.name, name)
        return _written(output, name, hardware(loaded), answers)


def arms_of(model, seed: int) -> list[Arm]:
    """1, 2, 4, ... tokens a pass up to the block, thresholds, and AR where the checkpoint has it."""
    size = model.config.traits.block_size
    paces = [2**k for k in range(size.bit_length()) if 2**k <= size]
    wanted = {f"{n} a pass": {"policy": "static", "policy_args": {}, "denoising_steps": -(-size // n)} for n in paces}
    for tau in THRESHOLDS:
        wanted[f"threshold {tau}"] = {"policy": "threshold", "policy_args": {}, "threshold": tau}
    if model.config.traits.ar_mode:
        wanted[AR] = {"mode": "ar"}
    return [Arm(name, {**given, "max_new_tokens": MAX_NEW_TOKENS}, seed) for name, given in wanted.items()]


def _written(output: Path, name: str, machine: dict, answers: Answers) -> str:
    items = next(iter(answers.values()))
    results = {"study": "parallelism", "model": name, "hardware": machine, "claims": []}
    results["arms"] = {arm: _figures(records) for arm, records in answers.items()}
    blocks: list[Block] = [Text(_about(name, machine, items))]
    if any(record.score for records in answers.values() for record in records):
        claims = claims_of(answers)
        results["claims"] = [{**asdict(claim), "verdict": claim.verdict} for claim in claims]
        blocks += _compared(output, answers, claims)
    else:
        blocks.append(Text(NOTHING))
    text = to_markdown("ParallelBench: score against parallelism", blocks)
    (output / "report.md").write_text(text, encoding="utf-8")
    write_json(output / "results.json", results)
    return text


def _compared(output: Path, answers: Answers, claims: Sequence[Claim]) -> list[Block]:
    file = output / "parallelism.png"
    draw_lines(file, _panels(answers), ("tokens per forward", "score, %"))
    left = [task for task in by_family(next(iter(answers.values()))) if task not in tasks_done(answers)]
    said = f"Without a right answer at one token a pass, and so in no verdict: {', '.join(left)}." if left else ""
    judged = [claims_table(claims)] if claims else [Text("No task is done at one token a pass: nothing to judge.")]
    return [
        Heading("Verdicts"),
        *judged,
        *([Text(said)] if said else []),
        Heading("All tasks"),
        _totals(answers),
        Heading("Score by task, %"),
        _by_task(answers),
        Figure("", "Score against tokens per forward: fixed numbers of tokens a pass, and thresholds", file.name),
    ]


def tasks_done(answers: Answers) -> list[str]:
    """Tasks of which some item is right at one token a pass."""
    return [task for task, items in by_family(answers[SLOWEST]).items() if any(item.score for item in items)]


def claims_of(answers: Answers) -> list[Claim]:
    """That parallelism costs score, more so where tokens depend on one another, and that thresholds do not help."""
    done = tasks_done(answers)
    if not done:
        return []
    fastest = next(arm for arm in reversed(answers) if arm.endswith(" a pass"))

    def gap(arm: str, tasks: Sequence[str]) -> Interval:
        return score_difference(of_tasks(answers[arm], tasks), of_tasks(answers[SLOWEST], tasks))

    published = "dramatic quality degradation, no figure"
    found = [Claim(f"{fastest} scores below {SLOWEST}", published, SOURCE, "lower", gap(fastest, done), "points")]
    free, fixed = ([task for task in done if _plain(task) in group] for group in (DEPENDENT, FIXED))
    if free and fixed:
        words = f"{fastest} loses more where tokens depend on one another than where the prompt fixes them"
        fall = falls_apart(answers, fastest, free, fixed)
        found.append(Claim(words, published, SOURCE, "lower", fall, "points"))
    if free:
        words = "a threshold of 0.9 scores below one token a pass where tokens depend on one another"
        told = "strategies do not adapt to the task, no figure"
        found.append(Claim(words, told, SOURCE, "lower", gap("threshold 0.9", free), "points"))
    return found


def falls_apart(answers: Answers, fastest: str, free: Sequence[str], fixed: Sequence[str]) -> Interval:
    """How many points more ``free`` tasks lose from one token a pass to ``fastest`` than ``fixed`` ones."""
    sides = [[of_tasks(answers[arm], tasks) for arm in (fastest, SLOWEST)] for tasks in (free, fixed)]
    lost, lost_fixed = (score_draws(fast) - score_draws(slow) for fast, slow in sides)
    value = float(np.subtract(*(score(fast).value - score(slow).value for fast, slow in sides)))
    few = min(len(sides[0][0]), len(sides[1][0])) < FEWEST
    return Interval(value, *((-np.inf, np.inf) if few else middle(lost - lost_fixed)))


def of_tasks(items: Sequence[ItemRecord], tasks: Sequence[str]) -> list[ItemRecord]:
    return [item for item in items if item.family in tasks]


def _plain(task: str) -> str:
    return task.removesuffix(parallel_bench.DRAWN)


def _totals(answers: Answers) -> Table:
    header = ("decoding", "score, %", "loose, %", "tokens / forward", "forwards / item")
    lines = []
    for arm, items in answers.items():
        told = _figures(items)
        passes = sum(item.forwards for item in items) / len(items)
        lines.append((arm, score(items).text(1), f"{told['loose']:.1f}", f"{per_forward(items):.2f}", f"{passes:.1f}"))
    return Table(header, lines)


def _by_task(answers: Answers) -> Table:
    families = {arm: by_family(items) for arm, items in answers.items()}
    tasks = list(next(iter(families.values())))
    lines = [(task, *(f"{score(families[arm][task]).value:.0f}" for arm in answers)) for task in tasks]
    return Table(("task", *answers), lines)


def _panels(answers: Answers) -> dict:
    """All tasks, and those whose tokens depend on one another beside those that the prompt fixes."""
    every = list(by_family(next(iter(answers.values()))))
    groups = {"all tasks": every}
    groups["tokens depend on one another"] = [task for task in every if _plain(task) in DEPENDENT]
    groups["fixed by the prompt"] = [task for task in every if _plain(task) in FIXED]
    return {title: _lines(answers, tasks) for title, tasks in groups.items() if tasks}


def _lines(answers: Answers, tasks: Sequence[str]) -> dict[str, list[tuple[float, Interval]]]:
    lines: dict[str, list[tuple[float, Interval]]] = {}
    for arm, records in answers.items():
        kind = "threshold" if arm.startswith("threshold") else "AR" if arm == AR else "tokens a pass"
        items = of_tasks(records, tasks)
        lines.setdefault(kind, []).append((per_forward(items), score(items)))
    return lines


def _figures(items: Sequence[ItemRecord]) -> dict:
    return {
        "score": asdict(score(items)),
        "loose": loose_scores(items)["mean"],
        "tokens_per_forward": per_forward(items),
        "items": len(items),
    }


def _about(name: str, machine: dict, items: Sequence[ItemRecord]) -> str:
    tasks = by_family(items)
    return (
        f"Model {name}; {machine['device']}, {machine['dtype']}, {machine['threads']} threads, one answer at a time; "
        f"{len(items)} items of {len(tasks)} tasks. The score is strict, the loose one reads the answer out of what "
        "stands around it; both in percent, the mean of the tasks. Every pass counts, the first one too."
    )
