"""``docs/results.md``: what the embedded model scores and costs, from runs that anyone can repeat.

    python -m eval.results                      # all of it; a stopped one continues
    python -m eval.results --limit 3 --parallel-limit 1 --work runs/short --output runs/short/results.md

The deciding choice: it calls nothing but ``python -m eval run``, and the page lists these commands. Ratios of time are
of decoding, with prefill beside them, against AR at the same precision; differences of scores are paired.
"""

import argparse
import base64
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from eval import compare
from eval.__main__ import main as evaluate
from eval.document import Block, Code, Figure, Heading, Table, Text, to_markdown
from eval.output import load, replace_file
from eval.plots import against_speed
from eval.record import ItemRecord, RunRecord
from eval.report import INTERVALS, hardware_table
from eval.speed import MEAN
from eval.summary import header, rows, totals

DEFAULT = 0.9
THRESHOLDS = (0.5, 0.7, 0.99)  # beside the default, along the curve
Found = tuple[RunRecord, list[ItemRecord]]

SPEED = ("run", "tokens / forward", "at most", "prefill s", "decode s", "AR ÷ this", "at most", "s / forward")
SPEED_TEXT = (
    "Seconds are those of the items' forward passes, in batches: a pass counts for each item that has rows in it. "
    "AR ÷ this: the ratio of decoding seconds to AR at the same precision. A block of B tokens cannot give more "
    "than B tokens per forward, nor be faster than B ÷ (seconds of its forward ÷ seconds of an AR forward)."
)
PAIRED = (
    "Differences are paired: the same items, resampled together 1000 times; an interval without zero is more than "
    "chance. Up and down count items whose own score rose or fell."
)


@dataclass(frozen=True)
class Part:
    """One run: its directory's name, and what it adds to ``python -m eval run``."""

    name: str
    suite: str
    options: tuple[str, ...]

    def command(self, arguments: argparse.Namespace) -> list[str]:
        limit = arguments.limit if self.suite == "playground" else arguments.parallel_limit
        given = ["run", "--suite", self.suite, "--limit", str(limit), "--batch-size", str(arguments.batch_size)]
        model = ["--model", arguments.model] if arguments.model else []
        return [*given, *model, *self.options, "--output", str(Path(arguments.work) / self.name)]


def parts(quick: bool) -> list[Part]:
    """All runs; without the curve's further thresholds if ``quick``."""
    modes = [("block", ("--mode", "block")), ("ar", ("--mode", "ar"))]
    kinds = [("", ()), ("-int8", ("--quantize", "int8"))]
    out = [Part(m + k, "playground", mode + kind) for k, kind in kinds for m, mode in modes]
    out += [Part(f"block-{t}", "playground", ("--threshold", str(t))) for t in ([] if quick else THRESHOLDS)]
    lists = [Part("lists-ar", "parallel_bench", ("--mode", "ar"))]
    shown = (DEFAULT,) if quick else (0.5, DEFAULT)
    return out + lists + [Part(f"lists-{t}", "parallel_bench", ("--threshold", str(t))) for t in shown]


def page(runs: dict[str, Found], commands: Sequence[str], ceiling: int) -> list[Block]:
    """The page's blocks from all runs by the name of their part; ``ceiling`` is the block size."""
    own = {name: run for name, run in runs.items() if run[0].suite == "playground"}
    lists = {name: run for name, run in runs.items() if run[0].suite != "playground"}
    run = runs["block"][0]
    return [
        Text(f"Weights {run.model_hash}, {run.limit} held-out items a family (seed {run.seed}), measured "
             f"{datetime.now(UTC):%Y-%m-%d}. Scores are percent."),
        Heading("All families, block diffusion"), Table(header(), rows(own["block"][1])), Text(INTERVALS),
        Heading("All families, autoregressive, from the same weights"), Table(header(), rows(own["ar"][1])),
        Heading("Block diffusion (B) against autoregressive (A)"), _paired(own["ar"], own["block"]), Text(PAIRED),
        Heading("Speed"), Table(SPEED, _speed(own, ceiling)), Text(SPEED_TEXT),
        Heading("int8 (B) against fp32 (A), block diffusion"), _paired(own["block"], own["block-int8"]),
        Text(_agreement(own["block"], own["block-int8"], "block diffusion")),
        Heading("int8 (B) against fp32 (A), autoregressive"), _paired(own["ar"], own["ar-int8"]),
        Text(_agreement(own["ar"], own["ar-int8"], "autoregressive")),
        Heading("Score against speed"), *_curve(own, "results.svg"),
        *(_lists(lists) if lists else []),
        Heading("Commands"), Code("\n".join(commands)),
        Heading("Hardware and software"), hardware_table(run),
    ]  # fmt: skip


def _paired(a: Found, b: Found) -> Table:
    return Table(compare.HEADER, [difference.cells for difference in compare.differences(a, b)[0]])


def _agreement(a: Found, b: Found, what: str) -> str:
    """How many answers are the same, to the letter."""
    theirs = {(r.family, r.index): r.answer for r in b[1]}
    same = sum(theirs[(r.family, r.index)] == r.answer for r in a[1])
    return f"{what}: {same} of {len(a[1])} answers are the same to the letter."


def _speed(runs: dict[str, Found], block: int) -> list[tuple[str, ...]]:
    out = []
    for name, (run, records) in runs.items():
        base = runs["ar-int8" if run.settings["quantize"] else "ar"][1]
        most = 1 if run.settings["mode"] == "ar" else block
        time = _decode(records)
        cells = (totals(records)["tokens_per_forward"], most, sum(r.prefill_s for r in records), time)
        ratios = (_decode(base) / time, most * _per_forward(base) / _per_forward(records))
        out.append((name, *(f"{c:.3g}" for c in (*cells, *ratios)), f"{_per_forward(records):.4f}"))
    return out


def _decode(records: Sequence[ItemRecord]) -> float:
    return sum(record.decode_s for record in records) or 1e-9


def _per_forward(records: Sequence[ItemRecord]) -> float:
    """Seconds of a forward pass behind the first, which is the prefill."""
    return _decode(records) / max(1, sum(record.forwards - 1 for record in records if record.error is None))


def _curve(runs: dict[str, Found], file: str) -> list[Block]:
    """Runs at fp32 by their threshold."""
    shown = {name: run for name, run in runs.items() if not run[0].settings["quantize"]}
    found = {name: totals(records) for name, (_, records) in shown.items()}
    points = [(n, t["tokens_per_forward"], t["score"], t["low"], t["high"]) for n, t in found.items()]
    lines = [
        (name, "–" if run.settings["mode"] == "ar" else run.settings["threshold"], t["score"],
         f"{t['low']:.1f} – {t['high']:.1f}", t["tokens_per_forward"])
        for (name, (run, _)), t in zip(shown.items(), found.values())
    ]  # fmt: skip
    lines.sort(key=lambda line: line[-1])
    uri = against_speed(points, MEAN, [shown[name][0].settings["mode"] for name in shown])
    header = ("run", "threshold", "mean score", "95 % interval", "tokens / forward")
    return [Figure(uri, "Mean score against tokens per forward", file), Table(header, lines)]


def _lists(runs: dict[str, Found]) -> list[Block]:
    """ParallelBench's table of every run; its families are many, its modes few."""
    out: list[Block] = [Heading("ParallelBench, made anew")]
    for name, (run, records) in runs.items():
        how = run.settings["mode"] + (
            "" if run.settings["mode"] == "ar" else f", threshold {run.settings['threshold']}"
        )
        out += [Text(f"{name}: {how}, {run.limit} items a task."), Table(header(records), rows(records))]
    return out


def block_size(model: str | None) -> int:
    """Of a checkpoint's decoding, unless it is told otherwise."""
    from vlm.checkpoints.load import EMBEDDED
    from vlm.config import VLMConfig
    from vlm.generation.config import BlockGenerationConfig

    source = model or str(EMBEDDED)
    return (
        BlockGenerationConfig.from_pretrained(source).block_size or VLMConfig.from_pretrained(source).traits.block_size
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.results", description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a checkpoint (default: the embedded model)")
    parser.add_argument("--limit", type=int, default=100, help="items per family of the playground (default 100)")
    parser.add_argument("--parallel-limit", type=int, default=25, help="items per task of parallel_bench (default 25)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="without the curve's further thresholds")
    parser.add_argument("--work", default="runs/results", help="where the runs are kept (default runs/results)")
    parser.add_argument("--output", default="docs/results.md")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    wanted = parts(arguments.quick)
    commands = {part.name: part.command(arguments) for part in wanted}
    for command in commands.values():
        if code := evaluate(command):
            return code
    try:
        runs = {name: load(Path(arguments.work) / name) for name in commands}
        shown = [f"python -m eval {shlex.join(command)}" for command in commands.values()]
        print(write(Path(arguments.output), page(runs, shown, block_size(arguments.model))))
    except (ValueError, OSError) as error:
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    return 0


def write(output: Path, content: list[Block]) -> Path:
    """The page, and the plot beside it, called as the page has it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    for block in content:
        if isinstance(block, Figure):
            replace_file(output.with_name(block.file), base64.b64decode(block.uri.partition(",")[2]).decode())
    replace_file(output, to_markdown("Results", content))
    return output


if __name__ == "__main__":
    sys.exit(main())
