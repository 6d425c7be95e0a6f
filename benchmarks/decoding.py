"""Block diffusion against autoregressive decoding from the same weights, on held-out items.

    python -m benchmarks.decoding --limit 40

Every item is answered in both modes, one right after the other and alone in its batch, and the mode that goes first
changes from item to item: what else the machine does meets both alike. Ratios are of ``decode_s``, the seconds behind
the first forward pass; that pass (media, prompt, the first decisions of either mode) stands beside as ``prefill_s``.
The two modes may give answers of different lengths, so how many answers are the same stands beside as well.

The ceiling says how far the ratio could go on this machine: a block of B rows per forward pass, at the measured cost
of such a pass in passes of one row.
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

from eval.metrics import f1
from eval.suites import playground
from vlm.answering import Answer, answer_batch, build_request, settings
from vlm.attention import Rows
from vlm.cache import BlockCache
from vlm.checkpoints.load import load
from vlm.model import clean_rows

warnings.filterwarnings("ignore")

MODES = ("block", "ar")
Counts = tuple[float, float, float]  # (matched, predicted, expected)


@dataclass(frozen=True)
class Pair:
    """One item answered in both modes: the answers and their slot counts, by mode."""

    answers: dict[str, Answer]
    counts: dict[str, Counts]


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Median and quartiles; None of nothing."""
    if not values:
        return None
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {"median": round(float(middle), 3), "q25": round(float(low), 3), "q75": round(float(high), 3)}


def paired_difference(a: Sequence[Counts], b: Sequence[Counts], draws: int = 2000) -> dict[str, float]:
    """Micro-F1 of ``a`` less that of ``b`` over the same items, with its 95 % bootstrap interval.

    Items are resampled in pairs, so that what makes an item hard for both cancels. Fixed seed.
    """
    both = np.stack([np.array(a, dtype=float), np.array(b, dtype=float)])  # [2, N, 3]
    picks = np.random.default_rng(0).integers(both.shape[1], size=(draws, both.shape[1]))
    differences = [f1(*x) - f1(*y) for x, y in zip(both[0][picks].sum(1), both[1][picks].sum(1))]
    low, high = np.quantile(differences, (0.025, 0.975))
    point = f1(*both[0].sum(0)) - f1(*both[1].sum(0))
    return {"difference": round(point, 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def summary(pairs: Sequence[Pair]) -> dict:
    """Accuracy, cost and speed of the two modes over the same items."""
    answers = {mode: [pair.answers[mode] for pair in pairs] for mode in MODES}
    counts = {mode: [pair.counts[mode] for pair in pairs] for mode in MODES}
    timed = [(x.decode_s, y.decode_s) for x, y in zip(answers["ar"], answers["block"]) if x.decode_s and y.decode_s]
    totals = [sum(column) for column in zip(*timed)]
    return {
        "items": len(pairs),
        "items_timed": len(timed),  # without those that one mode answers in its first pass
        "decode_ratio": spread([x / y for x, y in timed]),
        "decode_ratio_of_totals": round(totals[0] / totals[1], 3) if timed else None,
        **{mode: _mode_summary(answers[mode], counts[mode]) for mode in MODES},
        "same_answer": round(sum(x.answer == y.answer for x, y in zip(*answers.values())) / len(pairs), 3),
        "accuracy_block_less_ar": paired_difference(counts["block"], counts["ar"]),
    }


def _mode_summary(answers: list[Answer], counts: list[Counts]) -> dict:
    tokens, forwards = sum(a.tokens for a in answers), sum(a.forwards for a in answers)
    return {
        "accuracy": round(f1(*map(sum, zip(*counts))), 4),
        "tokens": tokens,
        "forwards": forwards,
        "tokens_per_forward": round(tokens / forwards, 3),
        "prefill_s": spread([a.prefill_s for a in answers]),
        "decode_s": spread([a.decode_s for a in answers]),
    }


def compare(model, processor, configs: dict, family: str, seed: int, limit: int) -> list[Pair]:
    """Answer ``limit`` items of a family in both modes, after one that warms up and is not counted."""
    pairs = [_pair(model, processor, configs, family, seed, index, index % 2) for index in (0, *range(limit))]
    return pairs[1:]


def _pair(model, processor, configs: dict, family: str, seed: int, index: int, ar_first: int) -> Pair:
    asked = playground.question(family, seed, index)
    request = build_request(processor, asked.messages, asked.media)
    order = MODES[::-1] if ar_first else MODES
    answers = {mode: answer_batch(model, processor, [request], configs[mode])[0] for mode in order}
    counts = {}
    for mode, answer in answers.items():
        value, slots = playground.score(family, answer.answer, asked.expected)
        counts[mode] = slots or (value, 1, 1)  # an exact match is one slot, so that micro-F1 is accuracy
    return Pair(answers, counts)


@torch.no_grad()
def row_cost(model, processor, block_size: int, family: str, seed: int, repeats: int = 40) -> dict[str, float]:
    """Seconds of a forward pass of a block and of one row behind the same cached prompt, and how they compare."""
    asked = playground.question(family, seed, 0)
    request = build_request(processor, asked.messages, asked.media)
    ids = request.input_ids.unsqueeze(0).to(model.device)  # [1, P]
    cache = BlockCache(model.config.text_config, 1, device=model.device)
    media = (p if p is None else p.to(model.device) for p in (request.pixel_values, request.pixel_values_videos))
    model.decode(model.embed(ids, *media), clean_rows(torch.ones_like(ids), model.config.traits), cache)
    cache.commit(torch.tensor([ids.shape[1]], device=model.device))
    seconds = {n: [] for n in (1, block_size)}
    for _ in range(repeats):
        for n, taken in seconds.items():
            taken.append(_timed(model, cache, ids.shape[1], n))
    one, block = (statistics.median(seconds[n][repeats // 4 :]) for n in (1, block_size))  # the first quarter warms up
    return {
        "block_size": block_size,
        "one_row_s": round(one, 6),
        "block_s": round(block, 6),
        "row_cost": round(block / one, 3),
        "ceiling": round(block_size * one / block, 3),
    }


def _timed(model, cache: BlockCache, prompt: int, n: int) -> float:
    """One pass over ``n`` mask rows, logits included; nothing is committed, so that the next finds the same cache."""
    position = torch.arange(prompt, prompt + n, device=model.device).unsqueeze(0)  # [1, n]
    start = torch.full_like(position, prompt)
    rows = Rows(position, torch.zeros_like(start), torch.ones_like(start), start, start + n)
    ids = torch.full_like(position, model.config.traits.mask_token_id)
    begin = _now(model.device)
    model.head(model.decode(model.get_input_embeddings()(ids), rows, cache))
    return _now(model.device) - begin


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def lines(report: dict) -> str:
    """The report for a terminal."""
    cost = report["forward"]
    out = [
        f"forward of {cost['block_size']} rows costs {cost['row_cost']} forwards of one row: ceiling {cost['ceiling']}"
    ]
    for family, s in report["families"].items():
        gap, ratio = s["accuracy_block_less_ar"], s["decode_ratio"]
        out.append(f"\n{family}, {s['items']} items")
        for mode in MODES:
            m = s[mode]
            cells = f"{m['tokens_per_forward']} tokens per forward ({m['tokens']} / {m['forwards']})"
            seconds = f"prefill {m['prefill_s']['median']} s, decode {m['decode_s']['median']} s"
            out.append(f"  {mode:5s} accuracy {m['accuracy']:.4f}, {cells}, {seconds}")
        out.append(f"  accuracy, block less ar: {gap['difference']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]")
        out.append(f"  the same answer in both modes: {100 * s['same_answer']:.0f} %")
        if ratio is not None:
            between = f"{ratio['q25']} – {ratio['q75']}"
            totals = s["decode_ratio_of_totals"]
            out.append(f"  decode time, ar / block: median {ratio['median']} (25–75 %: {between}), totals {totals}")
    return "\n".join(out)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decoding",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", help="a checkpoint (default: the embedded model)")
    parser.add_argument("--families", default="describe,json", help="comma-separated (default: describe,json)")
    parser.add_argument("--limit", type=int, default=40, help="items per family (default 40)")
    parser.add_argument("--threshold", type=float, help="of block mode (default: the checkpoint's)")
    parser.add_argument("--block-size", type=int, help="of block mode (default: the checkpoint's)")
    parser.add_argument("--seed", type=int, default=1, help="of the held-out items (default 1)")
    parser.add_argument("--output", default="runs/benchmarks/decoding.json", help="default: %(default)s")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        output = Path(arguments.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.open("a").close()  # before the work: a place that cannot be written is reported at once
        report = _run(arguments)
        output.write_text(json.dumps(report, indent=1), encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(lines(report))
    return 0


def _run(arguments: argparse.Namespace) -> dict:
    logging.disable_progress_bar()
    families = playground.families_named(arguments.families)
    for name, least in (("limit", 1), ("seed", 0)):
        if getattr(arguments, name) < least:
            raise ValueError(f"--{name} {getattr(arguments, name)} must be at least {least}")
    model, processor = load(arguments.model)
    block = settings(model, mode="block", threshold=arguments.threshold, block_size=arguments.block_size)
    configs = {"block": block, "ar": settings(model, mode="ar")}
    size = block.block_size or model.config.traits.block_size
    pairs = {
        family: compare(model, processor, configs, family, arguments.seed, arguments.limit) for family in families
    }
    return {
        "model": arguments.model or "embedded",
        "settings": {"threshold": block.threshold, "block_size": size, "seed": arguments.seed},
        "machine": {"device": str(model.device), "dtype": str(model.dtype), "threads": torch.get_num_threads()},
        "forward": row_cost(model, processor, size, families[0], arguments.seed),
        "families": {family: summary(found) for family, found in pairs.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
