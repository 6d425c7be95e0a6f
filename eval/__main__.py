"""Evaluate a model, look at the results, compare them.

python -m eval list
python -m eval run --suite playground --limit 200
python -m eval run --suite playground --families describe,json --limit 200 --mode ar
python -m eval run --suite local --source chartqa.jsonl --metric relaxed_accuracy
python -m eval report runs/eval/block
python -m eval compare runs/eval/ar runs/eval/block
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
    commands.add_parser("list", help="suites, their families and metrics")
    _add_run(commands.add_parser("run", help="evaluate a model on a suite"))
    report = commands.add_parser("report", help="write a run's report.md and index.html")
    report.add_argument("directory", metavar="DIR", help="what a run wrote to --output")
    compare = commands.add_parser("compare", help="paired differences between runs over the same items")
    compare.add_argument("first", metavar="A", help="the run that the others are compared with")
    compare.add_argument("others", metavar="B", nargs="+")
    compare.add_argument("--output", help="directory for the comparison's report.md and index.html")
    return parser.parse_args(argv)


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument("--suite", default="playground", help="playground (default) or local")
    run.add_argument("--source", help="for local: samples (VLMEvalKit TSV, LLaVA JSONL, Parquet …)")
    run.add_argument("--metric", help="for local: how answers are scored, see list")
    run.add_argument("--media-root", help="for local: where relative media paths start (default: beside the source)")
    run.add_argument(
        "--families", "--tasks", dest="families", help="comma-separated subset of the suite (default: all)"
    )
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


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    do = {"list": _list, "run": _run, "report": _report, "compare": _compare}[arguments.command]
    try:
        do(arguments)
        return 0
    except (ValueError, OSError) as error:
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _list(_: argparse.Namespace) -> None:
    from eval.suites import local, playground

    print("playground: " + ", ".join(playground.FAMILIES))
    print("local: --source FILE --metric " + "|".join(local.METRICS))


def _run(arguments: argparse.Namespace) -> None:
    from rich.console import Console
    from transformers.utils import logging

    from eval.runner import evaluate
    from eval.suites.base import named
    from eval.suites.choose import suite_named
    from eval.summary import result, table
    from vlm.answering import settings
    from vlm.checkpoints.load import load

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for name, least in (("limit", 1), ("batch_size", 1), ("seed", 0)):
        if getattr(arguments, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(arguments, name)} must be at least {least}")
    suite = suite_named(arguments.suite, arguments.seed, arguments.source, arguments.metric, arguments.media_root)
    families = named(arguments.families, list(suite.metrics))
    model, processor = load(arguments.model, arguments.adapter, quantize=arguments.quantize)
    names = ("mode", "policy", "threshold", "block_size", "denoising_steps", "max_new_tokens")
    config = settings(model, **{name: getattr(arguments, name) for name in names})
    output = Path(arguments.output or f"runs/eval/{arguments.mode}")
    name = " + ".join(filter(None, (arguments.model or "embedded", arguments.adapter)))
    options = (families, arguments.limit, arguments.batch_size, output, name, arguments.quantize)
    run, records = evaluate(model, processor, config, suite, *options)
    (output / "summary.json").write_text(json.dumps(result(run, records), indent=1), encoding="utf-8")
    Console().print(table(records, f"{suite.name} · {name} · {arguments.mode}"))


def _report(arguments: argparse.Namespace) -> None:
    from eval.report import report

    print(report(Path(arguments.directory)))


def _compare(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from eval.compare import compared
    from eval.report import written

    tables, content = compared([Path(name) for name in (arguments.first, *arguments.others)])
    for table in tables:
        Console().print(table)
    if arguments.output is not None:
        print(written(Path(arguments.output), "Comparison of runs", content))


if __name__ == "__main__":
    sys.exit(main())
