"""What keeping to a grammar costs: JSON scenes with and without their schema, from the same weights.

    python -m benchmarks.constraint --limit 40

Every item is answered both ways in every mode, one right after the other and alone in its batch, in changing order.
A grammar takes time (its masks are worked out and applied) and saves some (what it leaves no choice about needs no
pass), and only the valid run from the first open slot commits: ratios are of whole answers, prefill included.
"""

import argparse
import sys
import warnings

from benchmarks.measure import at_least, command, machine, names, parser, ranged, ratios, spread, turns
from data_pipelines.playground.scene_json import SCHEMA
from eval.metrics import f1, json_validity
from eval.suites import playground
from vlm.answering import answer_batch, build_request, own_strategy, settings
from vlm.checkpoints.load import load

warnings.filterwarnings("ignore")

MODES = ("block", "speculative", "ar")
WAYS = ("free", "schema")


def compare(model, processor, mode: str, seed: int, limit: int, schema: dict = SCHEMA) -> dict:
    """Time, passes, validity and accuracy of ``limit`` json items, free and under the schema."""
    config = settings(model, mode=mode)
    given = {"free": {}, "schema": {"schema": schema}}
    strategies = {way: own_strategy(model, processor, config, given[way]) for way in WAYS}
    found = {way: [] for way in WAYS}
    for index in (0, *range(limit)):
        asked = playground.question("json", seed, index)
        request = build_request(processor, asked.messages, asked.media)
        for way in turns(WAYS, index):
            request.strategy = strategies[way]
            found[way].append((answer_batch(model, processor, [request], config)[0], asked.expected))
    found = {way: answers[1:] for way, answers in found.items()}  # the first one warms up
    seconds = {way: [a.prefill_s + a.decode_s for a, _ in answers] for way, answers in found.items()}
    return {way: _summary(answers) for way, answers in found.items()} | {
        "time_ratio": spread(ratios(seconds["schema"], seconds["free"])),
        "ratio_of_totals": round(sum(seconds["schema"]) / sum(seconds["free"]), 3),
    }


def _summary(answers: list) -> dict:
    counts = [playground.score("json", answer.answer, expected)[1] for answer, expected in answers]
    tokens, forwards = sum(a.tokens for a, _ in answers), sum(a.forwards for a, _ in answers)
    return {
        "slot_f1": round(f1(*map(sum, zip(*counts))), 4),
        "parses": sum(json_validity(answer.answer) > 0 for answer, _ in answers),
        "items": len(answers),
        "tokens_per_forward": round(tokens / forwards, 3),
    }


def lines(report: dict) -> str:
    """The report for a terminal."""
    out = []
    for mode, found in report["modes"].items():
        out.append(f"{mode}: schema / free {ranged(found['time_ratio'])}, totals {found['ratio_of_totals']}")
        for way in WAYS:
            s = found[way]
            parses = f"{s['parses']} of {s['items']} parse"
            out.append(f"  {way:6s} {parses}, slot-F1 {s['slot_f1']}, {s['tokens_per_forward']} tokens per forward")
    return "\n".join(out)


def parse(argv: list[str] | None) -> argparse.Namespace:
    found = parser("constraint", __doc__, 40, "items")
    found.add_argument("--modes", default=",".join(MODES), help="default: %(default)s")
    return found.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    return command(arguments.output, lambda: _run(arguments), lines)


def _run(arguments: argparse.Namespace) -> dict:
    at_least(arguments, limit=1, seed=0)
    modes = names(arguments.modes, MODES, "mode")
    model, processor = load(arguments.model)
    found = {mode: compare(model, processor, mode, arguments.seed, arguments.limit) for mode in modes}
    return {"model": arguments.model or "embedded", "machine": machine(), "modes": found}


if __name__ == "__main__":
    sys.exit(main())
