"""Quality against speed: every commit policy over its own parameter and over block sizes, on held-out items.

    python -m benchmarks.sweep --limit 20
    python -m benchmarks.sweep --policies threshold=0.5/0.7/0.9,factor --block-sizes 8,16

Writes a JSON file, and beside it a Markdown table (.md) and a plot (.png). Every item is answered with every setting
and autoregressively before the next item comes, so that all settings meet the same machine. Tokens per forward count
every pass, the first one included. A setting is marked with * if no other one is both as accurate and as fast.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.measure import at_least, command, machine, parser, ranged, whole_numbers
from benchmarks.paired import Arm, Item, answer_items, cost, interval, versus
from eval.suites import playground
from vision_encoders.config import nearest
from vlm.answering import settings
from vlm.checkpoints.load import load

warnings.filterwarnings("ignore")

# The parameter of each policy that trades quality for speed, and where it is looked at.
GRID: dict[str, tuple[str, tuple[float, ...]]] = {
    "sequential": ("count", (1, 2, 4)),
    "static": ("steps", (1, 2, 4, 8)),
    "threshold": ("tau", (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)),
    "factor": ("factor", (0.25, 0.5, 1, 2, 4)),
    "entropy": ("gamma", (0.05, 0.1, 0.35, 0.7, 1.5)),
    "bacd": ("high", (0.7, 0.8, 0.9, 0.95)),
    "localleap": ("relaxed", (0.5, 0.6, 0.75, 0.9)),
    "wedlm": ("tau", (0.1, 0.2, 0.4, 0.8)),
}
AR = "ar"


@dataclass(frozen=True)
class Setting:
    """One point of the sweep: a policy, the value of its parameter, a block size."""

    policy: str
    value: float
    block_size: int

    @property
    def parameter(self) -> str:
        return GRID[self.policy][0]


def policies_named(text: str | None) -> dict[str, tuple[float, ...]]:
    """Policies and their parameter's values from ``NAME`` or ``NAME=V/V``, comma-separated; all of them without text.

    Raises:
        ValueError: for an unknown policy, or a value that is no number.
    """
    found = {}
    for word in GRID if text is None else text.split(","):
        name, _, values = word.partition("=")
        if name not in GRID:
            raise ValueError(f"unknown policy {name!r}; {nearest(name, GRID)}")
        found[name] = tuple(_number(name, v) for v in values.split("/")) if "=" in word else GRID[name][1]
    return found


def _number(policy: str, text: str) -> float:
    try:
        return int(text) if text.isascii() and text.isdigit() else float(text)
    except ValueError:
        raise ValueError(f"policy {policy!r}: {text!r} is not a number") from None


def arms_of(model, policies: dict[str, tuple[float, ...]], block_sizes: Sequence[int]) -> dict:
    """Every setting, checked against the checkpoint, and AR."""
    arms = {AR: Arm(model, settings(model, mode="ar"))}
    for size in block_sizes:
        for policy, values in policies.items():
            for value in values:
                setting = Setting(policy, value, size)
                given = {"policy": policy, "policy_args": {setting.parameter: value}, "block_size": size}
                arms[setting] = Arm(model, settings(model, mode="block", **given))
    return arms


def points(items: Sequence[Item], found: Sequence[Setting]) -> list[dict]:
    """What each setting costs and gives, beside AR."""
    made, told = [], ("decode_ratio", "token_ratio", "same_answer", "accuracy_difference")
    for setting in found:
        beside, own = versus(items, setting, AR), cost(items, setting)
        made.append(
            {
                "policy": setting.policy,
                "parameter": setting.parameter,
                "value": setting.value,
                "block_size": setting.block_size,
                "accuracy": own["accuracy"],
                "tokens_per_forward": own["tokens_per_forward"],
                "prefill_s": own["prefill_s"],
                "decode_s": own["decode_s"],
                **{name: beside[name] for name in told},
            }
        )
    return [{**point, "best": not any(_beats(other, point) for other in made)} for point in made]


def _beats(a: dict, b: dict) -> bool:
    """Whether ``a`` is nowhere worse than ``b`` and somewhere better."""
    both = [(a[name], b[name]) for name in ("accuracy", "tokens_per_forward")]
    return all(x >= y for x, y in both) and any(x > y for x, y in both)


def table(report: dict) -> str:
    """The report as Markdown: one table per family, settings as they were swept."""
    out = []
    for family, found in report["families"].items():
        ar = found["ar"]
        out += [
            f"## {family}, {report['limit']} items",
            "",
            "| policy | block | tokens per forward | accuracy | accuracy less AR [95 %] "
            "| speed per token, times AR (25–75 %) | the same as AR |",
            "|---|---|---|---|---|---|---|",
            f"| AR | 1 | {ar['tokens_per_forward']:.2f} | {ar['accuracy']:.4f} | | 1 | |",
        ]
        out += [_row(point) for point in found["points"]]
        out.append("")
    return "\n".join(out)


def _row(point: dict) -> str:
    name = f"{point['policy']} {point['parameter']}={point['value']:g}{' *' if point['best'] else ''}"
    return (
        f"| {name} | {point['block_size']} | {point['tokens_per_forward']:.2f} | {point['accuracy']:.4f} "
        f"| {interval(point['accuracy_difference'])} | {ranged(point['token_ratio'])} "
        f"| {100 * point['same_answer']:.0f} % |"
    )


def plot(report: dict, path: Path) -> None:
    """Tokens per forward against accuracy: a row per family, a column per block size, a line per policy."""
    from matplotlib.figure import Figure  # without pyplot, which would look for a display

    families, sizes = report["families"], report["block_sizes"]
    figure = Figure(figsize=(1 + 4 * len(sizes), 1 + 3.5 * len(families)), layout="constrained")
    axes = figure.subplots(len(families), len(sizes), squeeze=False, sharex="row", sharey="row")
    for row, (family, found) in zip(axes, families.items()):
        for axis, size in zip(row, sizes):
            _panel(axis, found, size)
            axis.set_title(f"{family}, blocks of {size}")
            axis.set_xlabel("tokens per forward")
        row[0].set_ylabel("accuracy")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(path, dpi=120)


def _panel(axis, found: dict, size: int) -> None:
    own = [point for point in found["points"] if point["block_size"] == size]
    for policy in dict.fromkeys(point["policy"] for point in own):
        line = sorted((p["tokens_per_forward"], p["accuracy"]) for p in own if p["policy"] == policy)
        axis.plot(*zip(*line), marker="o", markersize=4, linewidth=1, label=policy)
    ar = found["ar"]
    axis.axhline(ar["accuracy"], color="grey", linewidth=0.8, linestyle="--")
    axis.plot(ar["tokens_per_forward"], ar["accuracy"], "k*", markersize=12, label="AR")
    axis.grid(alpha=0.3)


def lines(report: dict) -> str:
    """The tables, and where they are."""
    return f"{table(report)}\nwritten: {', '.join(report['written'])}"


def parse(argv: list[str] | None) -> argparse.Namespace:
    found = parser("sweep", __doc__, 20)
    found.add_argument("--families", default="describe,json", help="comma-separated (default: describe,json)")
    found.add_argument("--policies", help=f"NAME or NAME=V/V, of {', '.join(GRID)} (default: all)")
    found.add_argument("--block-sizes", help="comma-separated (default: all that were trained)")
    return found.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    return command(arguments.output, lambda: _run(arguments), lines)


def _run(arguments: argparse.Namespace) -> dict:
    output = Path(arguments.output)
    if output.suffix != ".json":
        raise ValueError(f"--output {output} must end in .json; the table and the plot go beside it")
    families, policies = playground.families_named(arguments.families), policies_named(arguments.policies)
    at_least(arguments, limit=1, seed=0)
    sizes = None if arguments.block_sizes is None else whole_numbers(arguments.block_sizes, "--block-sizes")
    model, processor = load(arguments.model)
    sizes = sizes or list(model.config.traits.trained_block_sizes)
    arms = arms_of(model, policies, sizes)
    items = _answered(processor, arms, families, arguments.seed, arguments.limit)
    swept = [name for name in arms if name != AR]
    report = {
        "model": arguments.model or "embedded",
        "machine": machine(),
        "seed": arguments.seed,
        "limit": arguments.limit,
        "block_sizes": sizes,
        "families": {f: {"ar": cost(found, AR), "points": points(found, swept)} for f, found in items.items()},
        "written": [str(output.with_suffix(end)) for end in (".json", ".md", ".png")],
    }
    output.with_suffix(".md").write_text(table(report), encoding="utf-8")
    plot(report, output.with_suffix(".png"))
    return report


def _answered(processor, arms: dict, families: list[str], seed: int, limit: int) -> dict[str, list[Item]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"items, {len(arms)} settings each", total=len(families) * (limit + 1))
        return {f: answer_items(processor, arms, f, seed, limit, lambda: bar.advance(task)) for f in families}


if __name__ == "__main__":
    sys.exit(main())
