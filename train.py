"""Train a block-diffusion vision-language model.

    python train.py --config configs/demo.yaml
    python train.py --config configs/demo.yaml --max_steps 500 --optim.lr 3e-4
    python train.py --config configs/demo.yaml --print_config
    torchrun --nproc_per_node 2 train.py --config configs/demo.yaml

The same command continues a run that was stopped, from its newest checkpoint in ``output_dir``. A process uses one
GPU, or the CPU; torchrun and ``accelerate launch`` start several, each with ``accumulation`` micro-batches a step.
"""

import logging
import sys
import warnings
from argparse import ArgumentError

warnings.filterwarnings("ignore", category=FutureWarning)  # of peft and transformers about each other
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns about kernels that training does not use

from vlm.training.recipe import read_recipe  # noqa: E402
from vlm.training.run import run  # noqa: E402
from vlm.training.trainer import NonFiniteLoss  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    try:
        run(read_recipe(argv, __doc__.splitlines()[0]))
    except (ArgumentError, ValueError, OSError, NonFiniteLoss) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
