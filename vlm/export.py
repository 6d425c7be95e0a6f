"""Export a checkpoint for other engines.

python -m vlm.export runs/base out/ar --to ar         a stock causal language model: vLLM, SGLang, transformers
python -m vlm.export runs/sdar out/sdar --to sdar     block diffusion as LMDeploy and SGLang serve SDAR
python -m vlm.export runs/dvl out/dvl --to diffusionvl
python -m vlm.export embedded out/ar --to ar --text-only
"""

import argparse
import sys

from vlm.checkpoints.export import TARGETS, export
from vlm.cli.command import carried_out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m vlm.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="a checkpoint directory or hub id, or 'embedded'")
    parser.add_argument("output", metavar="DST", help="the new directory")
    parser.add_argument("--to", choices=TARGETS, required=True, help="what it becomes")
    parser.add_argument("--text-only", action="store_true", help="leave the vision encoder behind")
    arguments = parser.parse_args(argv)
    return carried_out(lambda: _exported(arguments))


def _exported(arguments: argparse.Namespace) -> str:
    model = None if arguments.model == "embedded" else arguments.model
    export(model, arguments.output, arguments.to, arguments.text_only)
    return arguments.output


if __name__ == "__main__":
    sys.exit(main())
