"""Tables of the study of decoders: a line a decoder, and what follows from the figures, in words that are computed.

The deciding choice: whether a decoder pays is a function of two intervals, its speed and its score against
``sdar-static``; where nothing is right there is nothing to compare, and that is all that is said.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.document import Block, Heading, Table, Text
from eval.metrics.intervals import bootstrap_scores, middle
from eval.record import ItemRecord
from eval.studies.curves import aup, front
from eval.studies.decoding import AR, FEWEST, Answers, per_forward, same, score, score_difference, speed
from eval.studies.drawing import Dot
from eval.studies.frame import Interval
from eval.studies.headlines import STATIC
from eval.summary import by_family, score_of, stream_of

NONE = Interval(float("nan"), -float("inf"), float("inf"))
NOTHING = (
    "Nothing to compare: no answer of any decoder is right, with one token a pass as with many. "
    "This checkpoint cannot do these tasks; give one that has learned them."
)


@dataclass(frozen=True)
class Measured:
    """One decoder at its own values.

    Attributes:
        forwards: passes an item, every one counted.
        against_ar, against_static: times as fast, on ``decode_s``; paired medians.
        same: answers that are AR's, in percent; None without AR.
        aup: of its curve, mean of the families.
        best: on the front of score and tokens per forward.
        pays: against ``sdar-static``.
    """

    decoder: str
    score: Interval
    difference: Interval
    per_forward: float
    forwards: float
    against_ar: Interval
    against_static: Interval
    same: float | None
    aup: Interval
    best: bool
    pays: str


def points_of(answers: Answers, curves: dict[str, list[str]]) -> list[Measured]:
    """Every decoder measured; arms of a curve that were not asked are left out of it."""
    asked = {decoder: [arm for arm in curve if arm in answers] for decoder, curve in curves.items()}
    areas = areas_under(answers, asked)
    own = {decoder: answers[decoder] for decoder in curves}
    best = front([(per_forward(items), score(items).value) for items in own.values()])
    return [_measured(d, own, area, b) for (d, area), b in zip(areas.items(), best)]


def _measured(decoder: str, own: Answers, area: Interval, best: bool) -> Measured:
    items, static = own[decoder], own[STATIC]
    faster, gap = speed(items, static), score_difference(items, static)
    return Measured(
        decoder,
        score(items),
        gap,
        per_forward(items),
        sum(item.forwards for item in items) / len(items),
        speed(items, own[AR]) if AR in own else NONE,
        faster,
        same(items, own[AR]) if AR in own else None,
        area,
        best,
        "the measure of the others" if decoder == STATIC else pays(faster, gap),
    )


def pays(faster: Interval, gap: Interval) -> str:
    """Whether speed (times) and score (points) against ``sdar-static`` speak for a decoder."""
    if faster.low > 1:
        if gap.high < 0:
            return f"no: faster, but {-gap.value:.1f} points worse"
        return "yes, and scores higher" if gap.low > 0 else "yes"
    if gap.high < 0:
        return f"no: not faster, and {-gap.value:.1f} points worse"
    if gap.low > 0:
        return "slower, but scores higher" if faster.high < 1 else "scores higher at the same speed"
    return "no: slower" if faster.high < 1 else "not distinguishable"


def areas_under(answers: Answers, curves: dict[str, list[str]]) -> dict[str, Interval]:
    """AUP of each decoder's curve, mean of the families; its interval over resampled scores at the measured passes."""
    families = {arm: by_family(items) for arm, items in answers.items()}
    names = list(next(iter(families.values())))
    few = len(next(iter(answers.values()))) < FEWEST
    values = {decoder: [] for decoder in curves}
    for family in names:
        items = {arm: families[arm][family] for arm in families}
        for decoder, draws in _areas(family, items, curves, few).items():
            values[decoder].append(draws)
    return {decoder: _interval(np.mean(draws, axis=0), few) for decoder, draws in values.items()}


def _areas(family: str, items: Answers, curves: dict[str, list[str]], few: bool) -> dict[str, np.ndarray]:
    """By decoder the area [1 + draws]: as measured, then of resampled items; the best score is resampled too."""
    passes = {arm: per_forward(records) for arm, records in items.items()}
    scores = {arm: _scores(family, records, few) for arm, records in items.items()}
    best = np.max(list(scores.values()), axis=0)  # [1 + draws]
    return {
        decoder: np.array(
            [aup([(passes[arm], scores[arm][draw]) for arm in curve], best[draw]) for draw in range(len(best))]
        )
        for decoder, curve in curves.items()
    }


def _scores(family: str, records: Sequence[ItemRecord], few: bool) -> np.ndarray:
    """In percent [1 + draws]: as measured, then of resampled items unless they are too few."""
    draws = [] if few else bootstrap_scores([record.row for record in records], stream=stream_of(family))
    return 100 * np.concatenate([[score_of(records)], draws])


def _interval(found: np.ndarray, few: bool) -> Interval:
    value = float(found[0])
    return Interval(value, NONE.low, NONE.high) if few else Interval(value, *middle(found[1:]))


HEADER = (
    "decoder",
    "score, %",
    "less sdar-static, points",
    "tokens / forward",
    "forwards / item",
    "times AR",
    "times sdar-static",
    "as AR, %",
    "AUP",
    "front",
    "pays",
)


def tables(points: Sequence[Measured], answers: Answers) -> list[Block]:
    """The decoders by what they commit a pass; or that there is nothing to compare."""
    if nothing_right(points):
        return [Text(NOTHING)]
    unasked = sum(record.error is not None for record in next(iter(answers.values())))
    noted = [Text(f"{unasked} items could not be asked and count as wrong.")] if unasked else []
    return [Table(HEADER, [_row(point) for point in sorted(points, key=lambda point: -point.per_forward)]), *noted]


def nothing_right(points: Sequence[Measured]) -> bool:
    return all(point.score.value == 0 for point in points)


def _row(point: Measured) -> tuple[Any, ...]:
    return (
        point.decoder,
        point.score.text(1),
        point.difference.text(1, "+"),
        f"{point.per_forward:.2f}",
        f"{point.forwards:.1f}",
        point.against_ar.text(2) if point.same is not None else "–",
        point.against_static.text(2),
        "–" if point.same is None else f"{point.same:.0f}",
        point.aup.text(0),
        "*" if point.best else "",
        point.pays,
    )


def panels(points: Sequence[Measured]) -> dict[str, list[Dot]]:
    """Score against tokens per forward, and against speed; each with its own front."""
    quick = [point for point in points if point.against_static.value == point.against_static.value]
    best = front([(point.against_static.value, point.score.value) for point in quick])
    by_speed = [Dot(p.decoder, p.against_static.value, p.score.value, b) for p, b in zip(quick, best)]
    by_pass = [Dot(p.decoder, p.per_forward, p.score.value, p.best) for p in points]
    return {"tokens per forward": by_pass, "decoding, times as fast as sdar-static": by_speed}


def beyond(answers: Answers, bases: Sequence[str]) -> str:
    """Which decoders are faster than each of ``bases`` at no distinguishable loss of score, all that were run."""
    said = []
    for base in bases:
        better = [
            arm
            for arm, items in answers.items()
            if speed(items, answers[base]).low > 1 and not score_difference(items, answers[base]).high < 0
        ]
        said.append(f"Faster than {base} at no distinguishable loss of score: {', '.join(better) or 'none'}.")
    return " ".join(said)


def counted(answers: Answers) -> str:
    families = by_family(next(iter(answers.values())))
    return ", ".join(f"{len(items)} items of {family}" for family, items in families.items())


def about(name: str, block_size: int, machine: dict) -> str:
    return (
        f"Model {name}, blocks of {block_size} unless a preset has its own; {machine['device']}, {machine['dtype']}, "
        f"{machine['threads']} threads, one answer at a time. Scores are percent with 95 % intervals over items; "
        "times are paired medians of the seconds behind the first pass, above 1 faster. Every pass counts, the first "
        "one too. AUP is the area of the d3LLM leaderboard under score against tokens per forward."
    )


def not_run(refused: dict[str, str]) -> list[Block]:
    if not refused:
        return []
    return [Heading("Not run on this checkpoint"), Table(("decoder", "reason"), list(refused.items()))]
