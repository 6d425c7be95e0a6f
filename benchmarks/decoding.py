"""Block diffusion and speculative decoding against autoregressive decoding from the same weights, on held-out items.

    python -m benchmarks.decoding --limit 40
    python -m benchmarks.decoding --limit 40 --precisions fp32,int8

Every item is answered in every mode at every precision, one right after the other and alone in its batch, in an order
that changes from item to item: what else the machine does meets all alike. Ratios are of ``decode_s``, the seconds
behind the first forward pass, against ``ar`` at the same precision; the first pass (media, prompt, the first
decisions) stands beside as ``prefill_s``. Modes may give answers of different lengths, and a short answer is soon
done, so the ratio also stands there per token, and for the items whose answers are the same. Speculative answers are
AR's own: at fp32 every other one is a fault.

The ceilings say how far a ratio could go on this machine, see `benchmarks.passes`. They are of long answers: of a
short one the first pass, which is not in the ratio, may decide a whole block in one mode and a single token in AR.
"""

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence

import torch

from benchmarks.measure import at_least, command, machine, names, parser, ranged
from benchmarks.paired import Arm, Item, answer_items, cost, interval, versus
from benchmarks.passes import row_cost
from eval.suites import playground
from vlm.answering import settings
from vlm.checkpoints.load import load
from vlm.generation.config import MODES, BlockGenerationConfig

warnings.filterwarnings("ignore")

PRECISIONS = {
    "fp32": {"dtype": torch.float32},
    "bf16": {"dtype": torch.bfloat16},
    "int8": {"quantize": "int8"},
    "nf4": {"quantize": "nf4"},
}
Key = tuple[str, str]  # (precision, mode)


def summary(items: Sequence[Item], precision: str, reference: str, modes: Sequence[str]) -> dict:
    """One precision over the items of a family: each mode's cost, and beside AR and beside another precision."""
    others = [mode for mode in modes if mode != "ar"] if "ar" in modes else []
    report = {
        "items": len(items),
        "modes": {mode: cost(items, (precision, mode)) for mode in modes},
        "against_ar": {mode: versus(items, (precision, mode), (precision, "ar")) for mode in others},
    }
    if precision != reference:
        beside = {mode: versus(items, (precision, mode), (reference, mode)) for mode in modes}
        report[f"against_{reference}"] = beside
    return report


def lines(report: dict) -> str:
    """The report for a terminal."""
    out = []
    for precision, found in report["precisions"].items():
        out.append(f"{precision}: {_forward_line(found['forward'])}")
        for family, s in found["families"].items():
            out.append(f"\n  {family}, {s['items']} items")
            out += [f"    {mode:11s} {_cost_line(m, found['forward'], mode)}" for mode, m in s["modes"].items()]
            for mode, v in s["against_ar"].items():
                out.append(f"    {mode} / ar: {_versus_line(v, _ceiling(found['forward'], mode))}")
            if precision == "fp32" and "speculative" in s["against_ar"]:
                out.append(f"    {_lossless_line(s['against_ar']['speculative'])}")
            for key in [key for key in s if key.startswith("against_") and key != "against_ar"]:
                base = key.removeprefix("against_")
                out += [f"    {mode}, {precision} / {base}: {_versus_line(v)}" for mode, v in s[key].items()]
        out.append("")
    return "\n".join(out).rstrip()


def _forward_line(cost: dict) -> str:
    ceilings = cost["ceilings"]
    return (
        f"a pass of {cost['block_size']} rows costs {cost['row_cost']} passes of one row, one that also closes a "
        f"block {cost['row_cost_closing']}; ceilings: block {ceilings['block']} ({ceilings['block_closing']} when "
        f"every block is closed), speculative {ceilings['speculative']}"
    )


def _cost_line(m: dict, forward: dict, mode: str) -> str:
    seconds = f"prefill {m['prefill_s']['median']} s, decode {m['decode_s']['median']} s"
    said = (
        f"accuracy {m['accuracy']:.4f}, {m['tokens_per_forward']} tokens per forward ({m['tokens']} / "
        f"{m['forwards']}), {seconds}"
    )
    if m["pass_s"] is None:
        return said
    kind, rest = ("one_row", "Python") if mode == "ar" else ("block", "closing rows and Python")
    bare, taken = forward["seconds"][kind], m["pass_s"]["median"]
    return f"{said}; a pass {1000 * taken:.1f} ms, a bare one {1000 * bare:.1f}: the rest is {rest}"


def _ceiling(forward: dict, mode: str) -> str:
    return f" (ceiling {forward['ceilings'][mode]})"


def _versus_line(v: dict, ceiling: str = "") -> str:
    return (
        f"decoding {ranged(v['decode_ratio'])} times as fast{ceiling}, of totals {v['decode_ratio_of_totals']}, "
        f"per token {ranged(v['token_ratio'])}, where answers are the same {ranged(v['decode_ratio_where_same'])}; "
        f"accuracy {interval(v['accuracy_difference'])}; the same answer {100 * v['same_answer']:.1f} %"
    )


def _lossless_line(v: dict) -> str:
    differing = v["differing_items"]
    if not differing:
        return "speculative answers are AR's, all of them"
    return f"FAULT: {len(differing)} speculative answers are not AR's: items {', '.join(map(str, differing[:10]))}"


def parse(argv: list[str] | None) -> argparse.Namespace:
    found = parser("decoding", __doc__, 40)
    found.add_argument("--families", default="describe,json", help="comma-separated (default: describe,json)")
    found.add_argument("--modes", default=",".join(MODES), help=f"of {', '.join(MODES)} (default: all)")
    found.add_argument("--precisions", default="fp32", help=f"of {', '.join(PRECISIONS)} (default: fp32)")
    found.add_argument("--policy", help="of block mode (default: the checkpoint's)")
    found.add_argument("--threshold", type=float, help="of block mode (default: the checkpoint's)")
    found.add_argument("--block-size", type=int, help="of block and speculative mode (default: the checkpoint's)")
    return found.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    return command(arguments.output, lambda: _run(arguments), lines)


def _run(arguments: argparse.Namespace) -> dict:
    families = playground.families_named(arguments.families)
    modes = names(arguments.modes, MODES, "mode")
    precisions = names(arguments.precisions, tuple(PRECISIONS), "precision")
    at_least(arguments, limit=1, seed=0)
    loaded = {precision: load(arguments.model, **PRECISIONS[precision]) for precision in precisions}
    arms = {}
    for precision, (model, _) in loaded.items():
        arms |= {(precision, mode): Arm(model, _config(model, mode, arguments)) for mode in modes}
    model, processor = loaded[precisions[0]]
    items = {family: answer_items(processor, arms, family, arguments.seed, arguments.limit) for family in families}
    block = _config(model, "block", arguments)
    size = block.block_size or model.config.traits.block_size
    return {
        "model": arguments.model or "embedded",
        "settings": _told(block, size, arguments),
        "machine": machine(),
        "precisions": {
            precision: {
                "forward": row_cost(model, processor, size, families[0], arguments.seed),
                "families": {f: summary(found, precision, precisions[0], modes) for f, found in items.items()},
            }
            for precision, (model, processor) in loaded.items()
        },
    }


def _config(model, mode: str, arguments: argparse.Namespace) -> BlockGenerationConfig:
    own: Mapping = {
        "block": {name: getattr(arguments, name) for name in ("policy", "threshold", "block_size")},
        "speculative": {"block_size": arguments.block_size or model.config.traits.block_size},  # that of the ceilings
        "ar": {},
    }
    return settings(model, mode=mode, **own[mode])


def _told(block: BlockGenerationConfig, size: int, arguments: argparse.Namespace) -> dict:
    return {
        "policy": block.policy,
        "threshold": block.threshold if block.policy in ("threshold", "localleap") else None,
        "block_size": size,
        "seed": arguments.seed,
        "limit": arguments.limit,
    }


if __name__ == "__main__":
    sys.exit(main())
