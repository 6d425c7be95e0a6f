"""Convert a model to a block-diffusion checkpoint: one of text, with or without a vision encoder, or a whole VLM.

python -m vlm.convert DIR runs/base --block-size 8
python -m vlm.convert DIR runs/base --vision siglip:SIGLIP_DIR --context causal --shift 0
python -m vlm.convert QWEN2_5_VL_DIR runs/base --block-size 8
python -m vlm.convert SDAR_DIR runs/sdar
"""

import argparse
import json
import sys

from vlm.checkpoints.convert import Choices, convert
from vlm.cli.command import carried_out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m vlm.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SRC", help="a language or vision-language model, or another project's")
    parser.add_argument("output", metavar="DST", help="the new directory")
    parser.add_argument("--vision", metavar="KIND:NAME", help="timm:NAME, siglip:DIR, siglip2:DIR or clip:DIR")
    parser.add_argument("--image-size", type=int, metavar="N", help="pixels a side; default: what it was trained for")
    parser.add_argument("--pretrained", action="store_true", help="fetch timm's weights for a timm encoder")
    parser.add_argument("--block-size", type=int, metavar="N", help="default 8, or the family's own")
    contexts = ("causal", "block_causal", "full")
    parser.add_argument("--context", choices=contexts, help="default causal, or the family's own")
    parser.add_argument("--shift", type=int, choices=(0, 1), help="default 0, or the family's own")
    parser.add_argument("--seed", type=int, default=0, help="of the new weights")
    arguments = vars(parser.parse_args(argv))
    source, output = arguments.pop("source"), arguments.pop("output")
    return carried_out(lambda: _converted(source, output, Choices(**arguments)))


def _converted(source: str, output: str, choices: Choices) -> str:
    config = convert(source, output, choices)
    told = {"diffusion": config.diffusion, "conversion": config.conversion}
    return f"{json.dumps(told, indent=2, ensure_ascii=False)}\n{output}"


if __name__ == "__main__":
    sys.exit(main())
