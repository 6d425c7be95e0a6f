"""Merge an adapter into its model: a checkpoint that needs no adapter beside it.

python -m vlm.merge_adapter runs/lora/final --output runs/lora/merged
python -m vlm.merge_adapter runs/qlora/final --output runs/qlora/merged --base-quantize nf4
"""

import argparse
import sys

from vlm.checkpoints.merge import merge
from vlm.cli.command import carried_out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vlm.merge_adapter", description=__doc__.splitlines()[0])
    parser.add_argument("adapter", help="a PEFT directory, such as a LoRA run's final/")
    parser.add_argument("--output", required=True, metavar="DIR", help="the new checkpoint")
    parser.add_argument("--model", metavar="DIR", help="the base, or 'embedded'; default: the one the adapter names")
    parser.add_argument("--base-quantize", choices=["nf4"], help="merge into the base as QLoRA rounded it")
    arguments = parser.parse_args(argv)
    return carried_out(lambda: _merged(arguments))


def _merged(arguments: argparse.Namespace) -> str:
    merge(**vars(arguments))
    return arguments.output


if __name__ == "__main__":
    sys.exit(main())
