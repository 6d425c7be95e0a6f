"""What studies of decoding share: the same items answered under many settings, and what pairs of answers say.

Every item is answered under every setting, one right after the other and alone in its batch, in an order drawn anew
for each item: what else the machine does meets all alike. Each setting has a directory of results like that of
``python -m eval run``, a line an answer as it comes, so that a stopped study goes on with the answer it stood at, and
``python -m eval compare`` reads them.

The deciding choice: all statistics are of pairs, resampled by item. From a handful of items an interval would be
narrow by accident, so fewer than ``FEWEST`` have none, and no verdict follows from them.
"""

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eval.metrics.intervals import DRAWS, middle
from eval.output import continued
from eval.record import ItemRecord
from eval.runner import SETTINGS, answered, described
from eval.studies.frame import Arm, Interval
from eval.suites.base import Suite
from eval.summary import by_family, mean_draws, mean_interval, mean_score
from vlm.answering import settings

FEWEST = 8  # items from which an interval is told
AR = "ar"
Answers = dict[str, list[ItemRecord]]  # by arm, the same items in the same order


def answer_all(
    model, processor, suite: Suite, families: Sequence[str], limit: int, arms: Sequence[Arm], output: Path, name: str
) -> Answers:
    """The answers of every arm to ``limit`` items of each family; those that ``output`` holds are not asked again.

    Item 0 of the first family warms up and is not kept: the items are 1 to ``limit``.

    Args:
        arms: their overrides are settings of decoding, as `vlm.answering.settings` takes them.
        name: of the model, for the records.

    Raises:
        ValueError: an arm is illegal on this checkpoint, or ``output`` holds results of another model.
    """
    configs = {arm.name: settings(model, tokenizer=processor.tokenizer, **arm.overrides) for arm in arms}
    run = described(model, configs[arms[0].name], suite, limit, 1, name)
    runs = {arm: replace(run, settings=run.settings | _told_settings(config)) for arm, config in configs.items()}
    keys = [(family, index) for family in families for index in range(1, limit + 1)]
    with ExitStack() as stack:
        opened = {
            arm: stack.enter_context(continued(output / arm.replace(" ", "_"), run, families))
            for arm, run in runs.items()
        }
        missing = [key for key in keys if any(key not in done for done, _ in opened.values())]

        def ask(key: tuple[str, int], warming: bool = False) -> None:
            question = next(iter(suite.questions(key[0], [key[1]])))
            for arm in _order(list(configs), key[1]):
                done, append = opened[arm]
                if warming or key not in done:
                    records = answered(model, processor, configs[arm], suite, [question], None)
                    if not warming:
                        append(records)

        steps = [partial(ask, (families[0], 0), warming=True)] if missing else []
        steps += [partial(ask, key) for key in missing]
        _with_bar(f"{suite.name}, {len(arms)} settings an item", len(keys) + 1, steps)
        return {arm: [done[key] for key in keys] for arm, (done, _) in opened.items()}


def _told_settings(config) -> dict:
    return {key: getattr(config, key) for key in SETTINGS}


def _order(arms: list[str], index: int) -> list[str]:
    return [arms[i] for i in np.random.default_rng(index).permutation(len(arms))]


def _with_bar(label: str, total: int, steps: Sequence[Callable[[], None]]) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr)) as bar:
        task = bar.add_task(label, total=total, completed=total - len(steps))
        for step in steps:
            step()
            bar.advance(task)


def pooled(columns: Sequence[Sequence[ItemRecord]]) -> list[ItemRecord]:
    """Several arms as one: of each item the sums of cost and slots, or the mean of its scores."""
    return [_pooled(records) for records in zip(*columns, strict=True)]


def _pooled(records: Sequence[ItemRecord]) -> ItemRecord:
    sums = {name: sum(getattr(r, name) for r in records) for name in ("tokens", "forwards", "decode_s")}
    counts = None if records[0].counts is None else tuple(map(sum, zip(*(r.counts for r in records))))
    return replace(records[0], **sums, counts=counts, score=sum(r.score for r in records) / len(records))


def score(items: Sequence[ItemRecord]) -> Interval:
    """Mean score of the families, in percent."""
    families = by_family(items)
    return _told(len(items), 100 * mean_score(families), *(100 * end for end in mean_interval(families)))


def score_draws(items: Sequence[ItemRecord]) -> np.ndarray:
    """That score of resampled items [draws], the same for every arm."""
    return 100 * mean_draws(by_family(items))


def score_difference(items: Sequence[ItemRecord], base: Sequence[ItemRecord]) -> Interval:
    """How many points ``items`` score above ``base``."""
    gap = 100 * (mean_score(by_family(items)) - mean_score(by_family(base)))
    return _told(len(items), gap, *middle(score_draws(items) - score_draws(base)))


def per_forward(items: Sequence[ItemRecord]) -> float:
    """Tokens per forward, every pass counted; 0 if none was run."""
    return sum(r.tokens for r in items) / max(1, sum(r.forwards for r in items))


def passes(items: Sequence[ItemRecord], base: Sequence[ItemRecord]) -> Interval:
    """How many times as many tokens per forward as ``base``."""
    both = np.array([[(r.tokens, max(1, r.forwards)) for r in side] for side in (items, base)], dtype=float)
    picks = np.random.default_rng(0).integers(len(items), size=(DRAWS, len(items)))
    sums = both[:, picks].sum(axis=2)  # [2, draws, (tokens, forwards)]
    draws = _quotients(sums[0, :, 0] * sums[1, :, 1], sums[0, :, 1] * sums[1, :, 0])
    return _told(len(items), _quotient(per_forward(items), per_forward(base)), *middle(draws))


def speed(items: Sequence[ItemRecord], base: Sequence[ItemRecord]) -> Interval:
    """How many times as fast as ``base``: the median of the items' ratios of ``decode_s``.

    Items that either side answers in its first pass have no decoding time and stand outside.
    """
    ratios = np.array([b.decode_s / a.decode_s for a, b in zip(items, base) if a.decode_s and b.decode_s])
    if not len(ratios):
        return Interval(math.nan, -math.inf, math.inf)
    picks = np.random.default_rng(0).integers(len(ratios), size=(DRAWS, len(ratios)))
    return _told(len(ratios), float(np.median(ratios)), *middle(np.median(ratios[picks], axis=1)))


def same(items: Sequence[ItemRecord], base: Sequence[ItemRecord]) -> float:
    """Share of items whose answer is ``base``'s, in percent."""
    return 100 * sum(a.answer == b.answer for a, b in zip(items, base)) / len(items)


def as_change(ratio: Interval) -> Interval:
    """A ratio as a change in percent: 1 is none."""
    return Interval(*(100 * (end - 1) for end in (ratio.value, ratio.low, ratio.high)))


def _told(items: int, value: float, low: float, high: float) -> Interval:
    return Interval(value, low, high) if items >= FEWEST else Interval(value, -math.inf, math.inf)


def _quotient(above: float, below: float) -> float:
    return above / below if below else math.nan


def _quotients(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
