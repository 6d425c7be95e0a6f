"""Evaluate a model.

python -m eval run --suite playground --limit 200
python -m eval run --suite playground --families describe,json --limit 200 --mode ar
python -m eval list
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m eval",
        description=__doc__.splitlines()[0],
        epilog=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="suites and their families")
    run = commands.add_parser("run", help="evaluate a model on a suite")
    run.add_argument("--suite", default="playground", choices=("playground",))
    run.add_argument("--families", help="comma-separated subset of the suite (default: all)")
    run.add_argument("--limit", type=int, default=200, help="items per family (default 200)")
    run.add_argument("--seed", type=int, default=1, help="of the held-out items (default 1)")
    run.add_argument("--batch-size", type=int, default=8, help="items decoded together (default 8)")
    run.add_argument(
        "--output", help="directory of results; a stopped run continues there (default: runs/eval/<mode>)"
    )
    run.add_argument("--model", help="a checkpoint (default: the embedded model)")
    run.add_argument("--adapter", help="a PEFT adapter for it")
    run.add_argument("--quantize", choices=("int8", "nf4"), help="of the decoder's linear layers")
    run.add_argument("--mode", choices=("block", "ar", "speculative"), default="block")
    run.add_argument("--policy", help="which slots a pass commits (default: those above --threshold)")
    run.add_argument("--threshold", type=float)
    run.add_argument("--block-size", type=int)
    run.add_argument("--denoising-steps", type=int)
    run.add_argument("--max-new-tokens", type=int, default=256)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    from eval.suites import playground

    if arguments.command == "list":
        print("playground: " + ", ".join(playground.FAMILIES))
        return 0
    try:
        return _run(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from transformers.utils import logging

    from eval.report import summary, table
    from eval.runner import run_playground
    from eval.suites.playground import families_named
    from vlm.answering import settings
    from vlm.checkpoints.load import load

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    families = families_named(arguments.families)
    for name, least in (("limit", 1), ("batch_size", 1), ("seed", 0)):
        if getattr(arguments, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(arguments, name)} must be at least {least}")
    model, processor = load(arguments.model, arguments.adapter, quantize=arguments.quantize)
    names = ("mode", "policy", "threshold", "block_size", "denoising_steps", "max_new_tokens")
    config = settings(model, **{name: getattr(arguments, name) for name in names})
    output = Path(arguments.output or f"runs/eval/{arguments.mode}")
    model_name = arguments.model or "embedded"
    options = (families, arguments.limit, arguments.seed, arguments.batch_size, output, model_name)
    records = run_playground(model, processor, config, *options)
    (output / "summary.json").write_text(json.dumps(summary(records), indent=1))
    Console().print(table(records, f"playground, held out · {model_name} · {arguments.mode}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
