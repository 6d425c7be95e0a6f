"""Train a block-diffusion vision-language model.

    python train.py --config configs/demo.yaml
    python train.py --config configs/demo.yaml --max_steps 500 --optim.lr 3e-4
    python train.py --config configs/demo.yaml --print_config

The same command continues a run that was stopped, from its newest checkpoint in ``output_dir``.
"""

import sys

from jsonargparse import ArgumentParser

from vlm.training.recipe import Recipe
from vlm.training.run import run


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0], exit_on_error=True)
    parser.add_argument("--config", action="config", help="a YAML recipe; later arguments override it")
    parser.add_class_arguments(Recipe, None)
    arguments = parser.parse_args(argv)
    recipe = parser.instantiate(arguments)
    try:
        run(Recipe(**{name: recipe[name] for name in Recipe.__dataclass_fields__}))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
