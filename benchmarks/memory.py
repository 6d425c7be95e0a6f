"""Peak memory of a pass over a large vocabulary, with logits made in chunks and with all of them at once.

    python -m benchmarks.memory chunked 152000 8 32

A process can only tell the highest memory it ever had, so each way is measured in a process of its own. On Linux a new
process starts from the peak of the one that starts it: start it from a small one, before any model is loaded there.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

import torch

from vision_encoders import VisionConfig
from vlm.config import DiffusionTraits, VLMConfig
from vlm.generation import scoring
from vlm.generation.config import BlockGenerationConfig
from vlm.generation.generate import answer
from vlm.generation.request import Request
from vlm.model import VLMForBlockDiffusion

WAYS = ("chunked", "whole")
TEXT = {"model_type": "qwen3", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 32,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512,
        "tie_word_embeddings": True}  # fmt: skip
VISION = {"kind": "timm", "model": "vit_tiny_patch16_224", "image_size": 32,
          "options": {"embed_dim": 16, "depth": 1, "num_heads": 2}}  # fmt: skip


def measured(way: str, vocab_size: int, batch: int, block: int) -> dict[str, float]:
    """What `main` prints, from a process of its own: MB when the model stands and at most.

    Raises:
        ValueError: if that process fails, with the last line it said.
    """
    command = [sys.executable, "-m", "benchmarks.memory", way, *map(str, (vocab_size, batch, block))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise ValueError(f"measuring memory failed: {(done.stderr.splitlines() or ['no output'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def build(vocab_size: int, block: int) -> VLMForBlockDiffusion:
    """A random model whose decoder is small beside its vocabulary."""
    config = VLMConfig(
        text_config={**TEXT, "vocab_size": vocab_size},
        vision_config=VisionConfig.from_dict(VISION).to_dict(),
        image_token_id=1,
        video_token_id=2,
        diffusion=DiffusionTraits(block_size=block, trained_block_sizes=(block,), mask_token_id=0),
    )
    torch.manual_seed(0)
    return VLMForBlockDiffusion(config).eval()


def decode(model: VLMForBlockDiffusion, way: str, batch: int) -> None:
    """One pass in which every slot of a batch of blocks is decided; ``whole`` makes their logits as one tensor."""
    block = model.config.traits.block_size
    config = BlockGenerationConfig(policy="static", denoising_steps=1, max_new_tokens=block)
    requests = [Request(torch.tensor([3, 4, 5, 6 + row])) for row in range(batch)]
    chunk = scoring.CHUNK
    scoring.CHUNK = chunk if way == "chunked" else batch * block * model.config.text_config.vocab_size
    try:
        answer(model, requests, config)
    finally:
        scoring.CHUNK = chunk


def peak_mb() -> float:
    """The most memory this process ever had, in MB; Linux tells kilobytes, macOS bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def main(argv: list[str]) -> None:
    way, (vocab_size, batch, block) = argv[0], map(int, argv[1:])
    model = build(vocab_size, block)
    built = peak_mb()
    decode(model, way, batch)
    print(json.dumps({"built_mb": built, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main(sys.argv[1:])
