"""Measure published claims again on the playground, each as one command.

python -m eval.studies noise
python -m eval.studies nbdiff --steps 240 --seeds 3 --output runs/studies/nbdiff
python -m eval.studies equal_compute
python -m eval.studies decoders --families describe,json --limit 25
python -m eval.studies tables
python -m eval.studies parallelism --model runs/lists/final

A study that was stopped goes on with the arm or the answer it stood at; report.md, results.json and plots stand in
--output.
"""

import argparse
import os
import sys
import warnings
from importlib import import_module
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything a study needs is part of the package
warnings.filterwarnings("ignore")

# A module of this package each, with ``STEPS`` and ``study(output, steps, seeds, limit)``.
STUDIES = {
    "noise": "SDAR-VL: a level a block, realised mask ratios, Beta curriculum, clipped noise",
    "nbdiff": "NBDiff: context, next-token loss, block growth",
    "equal_compute": "next tokens, blocks and full attention at equal compute",
}
# Those of decoding train nothing: a module each, with ``LIMIT`` and ``study(output, model, families, limit, seed)``.
DECODING = {
    "decoders": "every published decoder on long answers: score, passes, speed, AUP, beside the papers",
    "tables": "DiffusionVL: block sizes and thresholds against score and speed",
    "parallelism": "ParallelBench: score against tokens per forward",
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m eval.studies",
        description=__doc__.splitlines()[0],
        epilog=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="study", required=True)
    for name, about in STUDIES.items():
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("--steps", type=int, help="optimiser steps an arm (default: the study's own)")
        command.add_argument("--seeds", type=int, default=3, help="how many times each arm is run (default 3)")
        command.add_argument("--limit", type=int, default=100, help="held-out items a family (default 100)")
        command.add_argument("--output", help=f"directory of results (default: runs/studies/{name})")
    for name, about in DECODING.items():
        _add_decoding(commands.add_parser(name, help=about, description=about), name)
    return parser.parse_args(argv)


def _add_decoding(command: argparse.ArgumentParser, name: str) -> None:
    command.add_argument("--model", help="a checkpoint (default: the embedded model)")
    command.add_argument("--families", help="comma-separated (default: the study's own)")
    command.add_argument("--limit", type=int, help="held-out items a family (default: the study's own)")
    command.add_argument("--seed", type=int, default=1, help="of the held-out items (default 1)")
    command.add_argument("--output", help=f"directory of results (default: runs/studies/{name})")
    if name == "decoders":
        command.add_argument("--parallel", type=int, help="also N items of each text task of ParallelBench")
        command.add_argument("--filter", help="of learn2pd, a file of python -m vlm.training.fit_filter")


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        print(_run(arguments))
        return 0
    except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(arguments: argparse.Namespace) -> str:
    for name in ("steps", "seeds", "limit", "parallel"):
        value = getattr(arguments, name, None)
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value} must be at least 1")
    module = import_module(f"eval.studies.{arguments.study}")
    output = Path(arguments.output or f"runs/studies/{arguments.study}")
    if arguments.study in DECODING:
        from transformers.utils import logging

        logging.disable_progress_bar()
        given = {k: v for k, v in vars(arguments).items() if k not in ("study", "output") and v is not None}
        return module.study(output, **given)
    return module.study(output, arguments.steps or module.STEPS, arguments.seeds, arguments.limit)


if __name__ == "__main__":
    sys.exit(main())
