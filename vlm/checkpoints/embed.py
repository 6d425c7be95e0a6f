"""Make a trained checkpoint the embedded model: half precision, tokenizer beside it, defaults written in.

python -m vlm.checkpoints.embed runs/demo/final --block-size 8 --threshold 0.9
"""

import argparse
import shutil
import sys

import torch

from vlm.checkpoints.load import EMBEDDED, CheckpointError, load

LIMIT_MB = 64
SLOTS = {"end_last": {}}  # of the decoding loop, beside the threshold


def embed(source: str, block_size: int, threshold: float, max_new_tokens: int) -> float:
    """Write ``source`` to the package's assets; returns the size in MB.

    Raises:
        CheckpointError: ``source`` cannot be loaded.
        ValueError: a default that the checkpoint does not allow, or a result above the size limit.
    """
    model, processor = load(source, device="cpu")
    traits = {**model.config.diffusion, "block_size": block_size}
    model.config.diffusion = traits
    model.config.traits  # noqa: B018  (checks that the block size was trained)
    generation = model.generation_config
    generation.block_size, generation.threshold, generation.max_new_tokens = block_size, threshold, max_new_tokens
    generation.slots = SLOTS
    generation.check()
    fresh = EMBEDDED.with_name(EMBEDDED.name + ".new")
    model.to(torch.float16).save_pretrained(fresh)
    processor.save_pretrained(fresh)
    for path in fresh.iterdir():
        path.chmod(0o644)  # safetensors writes for the owner only; an installed package is for everybody
    size = sum(path.stat().st_size for path in fresh.iterdir()) / 1e6
    if size > LIMIT_MB:
        shutil.rmtree(fresh)
        raise ValueError(f"the embedded model would take {size:.0f} MB; the limit is {LIMIT_MB} MB")
    for card in EMBEDDED.glob("*.md"):
        shutil.copy(card, fresh)
    shutil.rmtree(EMBEDDED, ignore_errors=True)
    fresh.rename(EMBEDDED)
    return size


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vlm.checkpoints.embed", description=__doc__.splitlines()[0])
    parser.add_argument("source", help="a checkpoint directory")
    parser.add_argument("--block-size", type=int, default=8)
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    arguments = parser.parse_args(argv)
    try:
        size = embed(**vars(arguments))
    except (CheckpointError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{EMBEDDED}: {size:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
