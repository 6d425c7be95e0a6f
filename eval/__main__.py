"""Evaluate a model, look at the results, compare them.

python -m eval list
python -m eval run --suite playground --limit 200
python -m eval run --suite playground --families describe,json --limit 200 --mode ar
python -m eval run --suite parallel_bench --limit 100 --threshold 0.5
python -m eval run --suite playground --processes 4
python -m eval run --suite sdar_vl_21 --tasks mmstar,ai2d --output runs/eval/public
python -m eval run --suite local --source chartqa.jsonl --metric relaxed_accuracy
python -m eval report runs/eval/block
python -m eval report runs/eval/block runs/eval/block-0.5 runs/eval/ar
python -m eval compare runs/eval/ar runs/eval/block
"""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

DECODING = ("decoder", "mode", "policy", "threshold", "block_size", "denoising_steps", "max_new_tokens")


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
    report.add_argument(
        "beside", metavar="DIR", nargs="*", help="other runs over the same items, for the plot of score against speed"
    )
    compare = commands.add_parser("compare", help="paired differences between runs over the same items")
    compare.add_argument("first", metavar="A", help="the run that the others are compared with")
    compare.add_argument("others", metavar="B", nargs="+")
    compare.add_argument("--output", help="directory for the comparison's report.md and index.html")
    return parser.parse_args(argv)


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument("--suite", default="playground", help="its name, see list, or the YAML file of public benchmarks")
    run.add_argument("--source", help="for local: samples (VLMEvalKit TSV, LLaVA JSONL, Parquet …)")
    run.add_argument("--metric", help="for local: how answers are scored, see list")
    run.add_argument("--media-root", help="for local: where relative media paths start (default: beside the source)")
    run.add_argument(
        "--families", "--tasks", dest="families", help="comma-separated subset of the suite (default: all)"
    )
    run.add_argument("--limit", type=int, help="items per family (default 200; all of public benchmarks)")
    run.add_argument("--seed", type=int, default=1, help="of the held-out items (default 1)")
    run.add_argument("--batch-size", type=int, default=8, help="items decoded together (default 8)")
    run.add_argument("--processes", type=int, default=1, help="on this machine, which share the items (default 1)")
    run.add_argument(
        "--include-path", metavar="DIR", help="for public benchmarks: own lmms-eval tasks, instead of its"
    )
    run.add_argument(
        "--output", help="directory of results; a stopped run continues there (default: runs/eval/<mode>)"
    )
    run.add_argument("--model", help="a checkpoint (default: the adapter's base, else the embedded model)")
    run.add_argument("--adapter", help="a PEFT adapter for it")
    run.add_argument("--quantize", choices=("int8", "nf4"), help="of the decoder's linear layers")
    run.add_argument("--mode", choices=("block", "ar", "speculative"), default="block")
    run.add_argument("--decoder", help="a published decoder, see infer.py --list-decoders; other flags prevail")
    run.add_argument("--policy", help="which slots a pass commits (default: those above --threshold)")
    run.add_argument("--threshold", type=float)
    run.add_argument("--block-size", type=int)
    run.add_argument("--denoising-steps", type=int)
    run.add_argument("--max-new-tokens", type=int, help="longest answer (default 256; as a public suite says)")


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    do = {"list": _list, "run": _run, "report": _report, "compare": _compare}[arguments.command]
    try:
        if arguments.command == "run" and arguments.processes > 1 and "WORLD_SIZE" not in os.environ:
            return _shared(arguments, list(sys.argv[1:] if argv is None else argv))
        do(arguments)
        return 0
    except (ValueError, OSError) as error:
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _list(_: argparse.Namespace) -> None:
    from eval.lmms_plugin import EXTRA
    from eval.suites import local, parallel_bench, playground, public

    print("playground: " + ", ".join(playground.FAMILIES))
    print("local: --source FILE --metric " + "|".join(local.METRICS))
    print("parallel_bench: " + ", ".join(parallel_bench.FAMILIES))
    for name in public.names():
        entries = public.read_suite(name).benchmarks
        print(f"{name}: public benchmarks through lmms-eval ({EXTRA}), which loads their data from the hub;")
        print("    grade of evidence behind each, * is scored by a model behind an API")
        for kind in dict.fromkeys(entry.kind for entry in entries.values()):
            own = [f"{e.name} {e.grade}{'*' * e.judge}" for e in entries.values() if e.kind == kind]
            print(f"    {kind}: " + ", ".join(own))


def _shared(arguments: argparse.Namespace, argv: list[str]) -> int:
    """In several processes, once what can be seen without a model is in order."""
    from eval.ranks import launched

    _asked(arguments)
    return launched(argv, arguments.processes)


def _asked(arguments: argparse.Namespace):
    """(suite, its chosen families or benchmarks).

    Raises:
        ValueError: for a name that is not known, with the nearest ones, or a number that asks for nothing.
    """
    from eval.lmms_plugin import check_installed
    from eval.suites import choose, public
    from eval.suites.base import named
    from vision_encoders.config import nearest

    for name, least in (("limit", 1), ("batch_size", 1), ("seed", 0), ("processes", 1)):
        if (value := getattr(arguments, name)) is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be at least {least}")
    if public.is_public(arguments.suite):
        suite = public.read_suite(arguments.suite)
        chosen = suite.chosen(arguments.families)
        check_installed(f"suite {suite.name}")
        return suite, chosen
    known = (*choose.SUITES, *public.names())
    if arguments.suite not in known:
        raise ValueError(f"unknown suite {arguments.suite!r}; {nearest(arguments.suite, known)}")
    suite = choose.suite_named(
        arguments.suite, arguments.seed, arguments.source, arguments.metric, arguments.media_root
    )
    return suite, named(arguments.families, list(suite.metrics))


def _run(arguments: argparse.Namespace) -> None:
    from transformers.utils import logging

    from eval.suites.public import PublicSuite

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    suite, chosen = _asked(arguments)
    output = Path(arguments.output or f"runs/eval/{arguments.mode}")
    (_run_public if isinstance(suite, PublicSuite) else _run_own)(arguments, suite, chosen, output)


def _run_own(arguments: argparse.Namespace, suite, families: list[str], output: Path) -> None:
    from rich.console import Console

    from eval.ranks import device, joined
    from eval.runner import evaluate
    from eval.summary import result, table
    from vlm.answering import settings
    from vlm.checkpoints.load import load

    with joined() as ranks:
        model, processor = load(arguments.model, arguments.adapter, device=device(), quantize=arguments.quantize)
        given = {name: getattr(arguments, name) for name in DECODING}
        if arguments.max_new_tokens is None:
            given["max_new_tokens"] = 256
        config = settings(model, tokenizer=processor.tokenizer, **given)
        name = " + ".join(filter(None, (arguments.model, arguments.adapter))) or "embedded"
        options = (families, arguments.limit or 200, arguments.batch_size, output, name, arguments.quantize, ranks)
        run, records = evaluate(model, processor, config, suite, *options)
        if ranks.first:
            (output / "summary.json").write_text(json.dumps(result(run, records), indent=1), encoding="utf-8")
            Console().print(table(records, f"{suite.name} · {name} · {arguments.mode}"))


def _run_public(arguments: argparse.Namespace, suite, benchmarks: list, output: Path) -> None:
    from eval.lmms_plugin.run import Wanted, run_public

    own = {name: value for name in DECODING if (value := getattr(arguments, name)) is not None}
    if own["mode"] == "block":
        del own["mode"]  # the default: a suite's entry may say otherwise
    options = (own, arguments.limit, arguments.batch_size, arguments.include_path)
    run_public(suite, benchmarks, Wanted(arguments.model, arguments.adapter, arguments.quantize, *options), output)
    if os.environ.get("RANK", "0") == "0":
        _print_public(suite.name, output)


def _print_public(name: str, output: Path) -> None:
    from rich.console import Console

    from eval.lmms_plugin.summary import HEADER, write_summary
    from eval.summary import terminal_table

    shown = [HEADER.index(column) for column in ("benchmark", "grade", "metric", "score", "±", "n", "not asked")]
    lines = [[line[i] for i in shown] for line in write_summary(output)]
    Console().print(terminal_table(name, [HEADER[i] for i in shown], lines))


def _report(arguments: argparse.Namespace) -> None:
    from eval.report import report

    print(report(Path(arguments.directory), [Path(name) for name in arguments.beside]))


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
