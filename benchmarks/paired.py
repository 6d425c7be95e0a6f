"""The same held-out items answered in several ways: what each way costs, and how two of them differ.

Every item is answered in every way, alone in its batch. The statistics are of pairs: what makes an item hard, or the
machine slow at the moment, meets both sides of a comparison and cancels.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.measure import spread, turns
from eval.metrics import f1
from eval.suites import playground
from vlm.answering import Answer, answer_batch, build_request
from vlm.generation.config import BlockGenerationConfig
from vlm.model import VLMForBlockDiffusion

Counts = tuple[float, float, float]  # (matched, predicted, expected)


@dataclass(frozen=True)
class Arm:
    """One way to answer."""

    model: VLMForBlockDiffusion
    config: BlockGenerationConfig


@dataclass(frozen=True)
class Item:
    """One held-out item: its answers and their slot counts, by arm."""

    index: int
    answers: dict[Hashable, Answer]
    counts: dict[Hashable, Counts]


def answer_items(
    processor,
    arms: Mapping[Hashable, Arm],
    family: str,
    seed: int,
    limit: int,
    on_item: Callable[[], None] | None = None,
) -> list[Item]:
    """Answer ``limit`` items of a family in every way, after one that warms up and is not counted.

    Args:
        on_item: called after every item, that one included.
    """
    items = []
    for index in (0, *range(limit)):
        items.append(_item(processor, arms, family, seed, index))
        if on_item is not None:
            on_item()
    return items[1:]


def _item(processor, arms: Mapping[Hashable, Arm], family: str, seed: int, index: int) -> Item:
    asked = playground.question(family, seed, index)
    request = build_request(processor, asked.messages, asked.media)
    answers = {
        name: answer_batch(arms[name].model, processor, [request], arms[name].config)[0]
        for name in turns(list(arms), index)
    }
    counts = {}
    for name, answer in answers.items():
        value, slots = playground.score(family, answer.answer, asked.expected)
        counts[name] = slots or (value, 1, 1)  # an exact match is one slot, so that micro-F1 is accuracy
    return Item(index, answers, counts)


def cost(items: Sequence[Item], arm: Hashable) -> dict:
    """Accuracy, passes and seconds of one way."""
    answers = [item.answers[arm] for item in items]
    tokens, forwards = sum(a.tokens for a in answers), sum(a.forwards for a in answers)
    return {
        "accuracy": round(f1(*map(sum, zip(*(item.counts[arm] for item in items)))), 4),
        "tokens": tokens,
        "forwards": forwards,
        "tokens_per_forward": round(tokens / forwards, 3),
        "prefill_s": spread([a.prefill_s for a in answers]),
        "decode_s": spread([a.decode_s for a in answers]),
        "pass_s": spread([a.decode_s / (a.forwards - 1) for a in answers if a.forwards > 1]),
    }


def versus(items: Sequence[Item], arm: Hashable, base: Hashable) -> dict:
    """One way beside another: ratios above 1 say that it is faster than ``base``.

    A way whose answers are shorter is done sooner, so ``token_ratio`` compares seconds per token, and
    ``decode_ratio_where_same`` only items with the same answer on both sides. Items that either side answers in its
    first pass have no decoding time and stand outside all ratios.
    """
    ours, theirs = ([item.answers[name] for item in items] for name in (arm, base))
    timed = [(a, b) for a, b in zip(ours, theirs) if a.decode_s and b.decode_s]
    totals = [sum(answer.decode_s for answer in column) for column in zip(*timed)]
    differing = [item.index for item, a, b in zip(items, ours, theirs) if a.answer != b.answer]
    return {
        "items_timed": len(timed),
        "decode_ratio": spread([b.decode_s / a.decode_s for a, b in timed]),
        "decode_ratio_where_same": spread([b.decode_s / a.decode_s for a, b in timed if a.answer == b.answer]),
        "token_ratio": spread([b.decode_s / b.tokens / (a.decode_s / a.tokens) for a, b in timed]),
        "decode_ratio_of_totals": round(totals[1] / totals[0], 3) if timed else None,
        "same_answer": round(1 - len(differing) / len(items), 4),
        "differing_items": differing,
        "accuracy_difference": paired_difference(*([item.counts[name] for item in items] for name in (arm, base))),
    }


def paired_difference(a: Sequence[Counts], b: Sequence[Counts], draws: int = 2000) -> dict[str, float]:
    """Micro-F1 of ``a`` less that of ``b`` over the same items, with its 95 % bootstrap interval.

    Items are resampled in pairs. Fixed seed.
    """
    both = np.stack([np.array(a, dtype=float), np.array(b, dtype=float)])  # [2, N, 3]
    picks = np.random.default_rng(0).integers(both.shape[1], size=(draws, both.shape[1]))
    differences = [f1(*x) - f1(*y) for x, y in zip(both[0][picks].sum(1), both[1][picks].sum(1))]
    low, high = np.quantile(differences, (0.025, 0.975))
    point = f1(*both[0].sum(0)) - f1(*both[1].sum(0))
    return {"difference": round(point, 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def interval(difference: dict[str, float]) -> str:
    """A paired difference with its interval, for a terminal."""
    return f"{difference['difference']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"
