"""A training step with vision and prompt once in a row, against the doubled layout [x_t ; x_0] of published trainers.

    python -m benchmarks.training_layout
    python -m benchmarks.training_layout --cases image,text --batch 4 --rounds 8

Both layouts go through the code that trains: rows, noise, batch, forward, loss, backward, AdamW. The noise is the same
in both, and so must the loss be. The decoder has the shape of a checkpoint's and random weights; the vision tower is a
toy with as many features as the case asks for, because a tower runs once a picture in either layout.

Times are of a step of each layout, one right after the other, in changing order. The memory of a step is what the
process needs at most beyond what stood before it (weights, gradients and the optimiser's moments, the same in both);
each layout is measured in a process of its own, see `benchmarks.memory`.
"""

import argparse
import json
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import at_least, command, machine, names, now, ranged, ratios, spread, turns
from benchmarks.memory import peak_mb
from vision_encoders import VisionConfig
from vlm import DiffusionTraits, VLMConfig, VLMForBlockDiffusion
from vlm.checkpoints.load import EMBEDDED
from vlm.layout import build_layout, doubled_layout
from vlm.noise import NoiseTokens
from vlm.processor import Encoded
from vlm.training.collate import IGNORED, collate, noise_sample
from vlm.training.data import Prepared
from vlm.training.losses import losses
from vlm.training.recipe import NoiseRecipe, ObjectiveRecipe

warnings.filterwarnings("ignore")

LAYOUTS = ("once", "doubled")
PROMPT = 16  # text tokens before the answer
PATCH = 16  # pixels a side for one feature
SAME = 1e-5  # how far the two losses may be apart, relative
IMAGE, VIDEO, MASK, END, FIRST_WORD = range(5)


@dataclass(frozen=True)
class Case:
    """One shape of sample: ``media`` pictures (or video frames) of ``features`` tokens each, and an answer."""

    media: int
    features: int
    answer: int
    video: bool = False

    @property
    def clean(self) -> int:
        """Tokens of the conversation."""
        return PROMPT + self.media * self.features + self.answer


CASES = {
    "image": Case(1, 729, 64),
    "video": Case(8, 196, 64, video=True),
    "text": Case(0, 1, 512),
}


def build(case: Case, text_config: dict, block_size: int) -> VLMForBlockDiffusion:
    """A random model whose toy tower gives ``case.features`` features a picture."""
    side = round(case.features**0.5)
    vision = VisionConfig(
        kind="timm", model="vit_tiny_patch16_224", image_size=side * PATCH,
        options={"embed_dim": 16, "depth": 1, "num_heads": 2},
    )  # fmt: skip
    traits = DiffusionTraits(
        block_size=block_size, trained_block_sizes=(block_size,), mask_token_id=MASK, ar_mode=True
    )
    torch.manual_seed(0)
    return VLMForBlockDiffusion(
        VLMConfig(
            text_config=text_config,
            vision_config=vision.to_dict(),
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            frame_pool=1,
            diffusion=traits,
        )
    )


def sample(case: Case, model: VLMForBlockDiffusion, layout: str, number: int) -> Prepared:
    """A random conversation laid out for training; the same one whatever the layout."""
    rng = np.random.default_rng(number)
    config, traits = model.config, model.config.traits
    words = rng.integers(FIRST_WORD, config.text_config.vocab_size, PROMPT + case.answer)
    media = np.full(case.media * case.features, VIDEO if case.video else IMAGE)
    ids = np.concatenate([media, words])
    side = config.vision_config["image_size"]
    pixels = rng.standard_normal((case.media, 3, side, side), np.float32)
    none = pixels[:0]
    encoded = Encoded(
        ids, np.arange(len(ids)) >= len(ids) - case.answer, none if case.video else pixels,
        pixels if case.video else none, id=f"sample/{number}",
    )  # fmt: skip
    lay_out = build_layout if layout == "once" else doubled_layout
    rows = lay_out(ids, encoded.is_answer, block_size=traits.block_size, traits=traits, end_token_id=END)
    return Prepared(encoded, rows, traits.block_size)


class Step:
    """An optimiser step on one batch in one layout; a call makes it and gives the two losses' sum."""

    def __init__(self, model: VLMForBlockDiffusion, optimizer: torch.optim.Optimizer, case: Case, layout: str, n: int):
        self.model, self.optimizer = model, optimizer
        samples = [sample(case, model, layout, number) for number in range(n)]
        noise, objective = NoiseRecipe(), ObjectiveRecipe()
        drawn = [noise_sample(s, NoiseTokens(MASK), noise, objective, 0, step=0, progress=0.0) for s in samples]
        self.totals = {
            "diffusion": sum(draw.normaliser for draw in drawn),
            "next": float(sum((draw.next_targets != IGNORED).sum() for draw in drawn)),
        }
        self.batch = {k: v.to(model.device) for k, v in collate(samples, drawn, END).items()}
        self.rows = self.batch["ids"].shape[1]

    def loss(self) -> torch.Tensor:
        return sum(losses(self.model, self.batch, self.model.config.traits.prediction_shift, self.totals))

    def __call__(self) -> float:
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)  # gradients stand before a step, as everything but its own does
        return loss.item()


def prepared(
    case: Case, text_config: dict, block_size: int, device: str
) -> tuple[VLMForBlockDiffusion, torch.optim.AdamW]:
    """Model and optimiser in the middle of a run: gradients and moments exist."""
    model = build(case, text_config, block_size).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)  # every step starts from the same weights
    Step(model, optimizer, Case(0, case.features, 2), "once", 1)()
    return model, optimizer


def compared(case: Case, text_config: dict, block_size: int, batch: int, rounds: int) -> dict:
    """Times and losses of the two layouts, each timed once a round after one round of warming up."""
    model, optimizer = prepared(case, text_config, block_size, machine()["device"])
    steps = {layout: Step(model, optimizer, case, layout, batch) for layout in LAYOUTS}
    loss = {layout: step() for layout, step in steps.items()}
    seconds: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
    for number in range(rounds):
        for layout in turns(LAYOUTS, number):
            start = now(model.device)
            steps[layout]()
            seconds[layout].append(now(model.device) - start)
    return {
        "rows": {layout: step.rows for layout, step in steps.items()},
        "loss": loss,
        "loss_difference": abs(loss["once"] - loss["doubled"]) / abs(loss["doubled"]),
        "seconds": {layout: spread(found) for layout, found in seconds.items()},
        "speedup": spread(ratios(seconds["doubled"], seconds["once"])),
    }


def step_mb(name: str, layout: str, model: str, block_size: int, batch: int) -> float:
    """Memory of a step in MB, from a process of its own.

    Raises:
        ValueError: if that process fails, with the last line it said.
    """
    asked = [sys.executable, "-m", "benchmarks.training_layout", "--measure", layout, "--cases", name,
             "--model", model, "--block-size", str(block_size), "--batch", str(batch)]  # fmt: skip
    done = subprocess.run(asked, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise ValueError(f"measuring memory failed: {(done.stderr.splitlines() or ['no output'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def grown_mb(case: Case, layout: str, text_config: dict, block_size: int, batch: int) -> float:
    """How much the process's peak grows by a step; to be asked once in a process."""
    device = machine()["device"]
    model, optimizer = prepared(case, text_config, block_size, device)
    step = Step(model, optimizer, case, layout, batch)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    before = peak_mb()
    step()
    return round(peak_mb() - before, 1)


def lines(report: dict) -> str:
    """The report for a terminal."""
    out = []
    for name, found in report["cases"].items():
        rows, memory = found["rows"], found["memory_mb"]
        out.append(
            f"{name}: {rows['once']} rows a sample, doubled {rows['doubled']}; a step {ranged(found['speedup'])} "
            f"times as fast ({found['seconds']['once']['median']} s, {found['seconds']['doubled']['median']} s), "
            f"memory {memory['ratio']} ({memory['once']} MB, {memory['doubled']} MB)"
        )
        if found["loss_difference"] > SAME:
            out.append(f"  FAULT: the losses differ by {found['loss_difference']:.1e}: {found['loss']}")
    return "\n".join(out)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_layout",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument("--model", help="a checkpoint with the decoder's shape (default: the embedded model)")
    parser.add_argument("--block-size", type=int, default=8, help="default: 8")
    parser.add_argument("--batch", type=int, default=4, help="samples a step (default 4)")
    parser.add_argument("--rounds", type=int, default=8, help="timed steps of each layout (default 8)")
    parser.add_argument("--output", default="runs/benchmarks/training_layout.json", help="default: %(default)s")
    parser.add_argument("--measure", choices=LAYOUTS, help=argparse.SUPPRESS)  # what a process for memory is told
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    if arguments.measure:
        print(grown_mb(CASES[arguments.cases], arguments.measure, _decoder(arguments.model), *_size(arguments)))
        return 0
    return command(arguments.output, lambda: _run(arguments), lines)


def _size(arguments: argparse.Namespace) -> tuple[int, int]:
    return arguments.block_size, arguments.batch


def _decoder(model: str) -> dict:
    """The text config of a checkpoint.

    Raises:
        ValueError: if there is none.
    """
    if not (Path(model) / "config.json").is_file():
        raise ValueError(f"{model}: no such model directory")
    return VLMConfig.from_pretrained(model).text_config.to_dict()


def _run(arguments: argparse.Namespace) -> dict:
    chosen = names(arguments.cases, tuple(CASES), "case")
    at_least(arguments, block_size=1, batch=1, rounds=1)
    model = arguments.model or str(EMBEDDED)
    text_config = _decoder(model)
    memory = {}
    for name in chosen:  # first, while this process is small
        once, doubled = (step_mb(name, layout, model, *_size(arguments)) for layout in LAYOUTS)
        memory[name] = {"once": once, "doubled": doubled, "ratio": round(once / doubled, 3) if doubled else None}
    return {
        "model": arguments.model or "embedded",
        "settings": {"block_size": arguments.block_size, "batch": arguments.batch, "rounds": arguments.rounds},
        "machine": machine(),
        "cases": {
            name: {
                **compared(CASES[name], text_config, *_size(arguments), arguments.rounds),
                "memory_mb": memory[name],
            }
            for name in chosen
        },
    }


if __name__ == "__main__":
    sys.exit(main())
