"""Three ways to train the same weights: on next tokens, on blocks behind a clean context, on whole answers at once.

Each gets the rows that it needs and no others: next tokens the clean stream alone; blocks the clean stream and one
noisy view of the answers; full attention one stream, its answers noised in place. There one block is the whole length
that decoding gives an answer, and the last answer is filled to it with end tokens (`vlm.layout`), as LLaDA's is.

The deciding choice: what a step costs is counted in operations of matrix products, forward and backward, on the
batches that are trained on, and not estimated from rows. Attention is counted as it is computed with a mask, every
pair of rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from data_pipelines.batching import length_buckets
from eval.studies.gradients import batch_loss
from eval.studies.training import FAMILIES, MAX_SIDE, save
from vlm.checkpoints.load import load
from vlm.config import DiffusionTraits
from vlm.layout import Layout
from vlm.processor import Encoded
from vlm.training.collate import IGNORED, collate, nelbo_sample, noise_sample, noise_tokens
from vlm.training.curricula import Phase
from vlm.training.data import PlaygroundStream, Prepared, n_rows
from vlm.training.losses import losses
from vlm.training.recipe import Recipe
from vlm.training.trainer import BlockDiffusionTrainer, checkpoints

COUNTED = 16  # batches on which the cost of a step is counted
HELDOUT = 48  # samples on which the loss is measured
DRAWS = 8  # of noise, for each of them
HELDOUT_SEED = 3


class RegimeStream(PlaygroundStream):
    """Training samples with the rows of a regime, which the model's traits tell."""

    def laid_out(self, encoded: Encoded, rng: np.random.Generator) -> Prepared:
        prepared = super().laid_out(encoded, rng)
        return clean_only(prepared) if reads_next_tokens(self.traits) else prepared


def reads_next_tokens(traits: DiffusionTraits) -> bool:
    """Whether a model has learned next tokens and nothing else."""
    return tuple(traits.trained_block_sizes) == (1,)


def clean_only(sample: Prepared) -> Prepared:
    """The sample without its noisy views."""
    clean = sample.layout.view == 0
    return replace(sample, layout=Layout(**{name: column[clean] for name, column in vars(sample.layout).items()}))


@dataclass(frozen=True)
class Cost:
    """Of one optimiser step, on average: operations, and what they are spent on."""

    flops: float
    rows: float
    samples: float
    answer_tokens: float


def cost_of_a_step(start: Path, recipe: Recipe) -> Cost:
    """Counted on the first `COUNTED` batches of a recipe; the vision tower is frozen and runs forward only."""
    model, processor = load(str(start), dtype=torch.float32, device="cpu")
    model.vision_tower.requires_grad_(False)
    stream = RegimeStream(recipe.data, processor, model.config.traits, recipe.seed)
    batches = [batch.samples for batch in islice(iter(stream), COUNTED)]
    flops = [_flops(model, processor, recipe, samples) for samples in batches]
    sums = [[len(s.layout.ids) for s in b] for b in batches]
    answers = [sum(map(answer_length, b)) for b in batches]
    return Cost(*(float(np.mean(v)) for v in (flops, [sum(s) for s in sums], [len(s) for s in sums], answers)))


def _flops(model, processor, recipe: Recipe, samples: Sequence[Prepared]) -> int:
    tokens = noise_tokens(processor.tokenizer, model.config.traits, recipe.noise)
    noised = [noise_sample(s, tokens, recipe.noise, recipe.objective, recipe.seed, 0, 0.0) for s in samples]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        batch_loss(model, samples, noised, processor, recipe).backward()
    model.zero_grad()
    return counter.get_total_flops()


def train(start: Path, recipe: Recipe) -> None:
    """Train from ``start`` on the rows of its regime; a run that has all its steps is left alone."""
    torch.manual_seed(recipe.seed)
    folder = Path(recipe.output_dir)
    found = checkpoints(folder)
    model, processor = load(str(found[-1] if found else start), dtype=torch.float32, device="cpu")
    stream = RegimeStream(recipe.data, processor, model.config.traits, recipe.seed)
    trainer = BlockDiffusionTrainer(model, processor, stream, recipe)
    trainer.resume()
    save(folder / "final", trainer.model, processor)


@torch.no_grad()
def heldout_nats(model, processor, recipe: Recipe) -> float:
    """Nats an answer token on `HELDOUT` samples of one turn: exact for next tokens, else the bound from `DRAWS` draws.

    What full attention and last blocks are filled with counts as loss but not as tokens, so that all bounds are of
    the same answers' likelihood.
    """
    traits = model.config.traits
    data = replace(recipe.data, phases=[Phase(1, dict(FAMILIES), MAX_SIDE, (1, 1))])
    stream = RegimeStream(data, processor, traits, HELDOUT_SEED, "heldout")
    samples = [stream.sample(index) for index in range(HELDOUT)]
    exact = reads_next_tokens(traits)
    total = sum(
        _nats(model, processor, piece, draw, exact)
        for draw in range(1 if exact else DRAWS)
        for piece in length_buckets(samples, n_rows, recipe.data.rows_per_batch, HELDOUT, seed=0)
    )
    return total / (1 if exact else DRAWS) / sum(map(answer_length, samples))


def answer_length(sample: Prepared) -> int:
    """Tokens of its answers, their end tokens included; fill counts as none."""
    return int(sample.encoded.is_answer.sum())


def _nats(model, processor, samples: list[Prepared], draw: int, exact: bool) -> float:
    """A batch's summed loss: of next tokens, or of noisy slots with their weights 1 / t."""
    traits = model.config.traits
    noised = [nelbo_sample(sample, traits.mask_token_id, draw) for sample in samples]
    batch = collate(samples, noised, processor.tokenizer.pad_token_id)
    if not exact:
        batch["next_targets"] = torch.full_like(batch["next_targets"], IGNORED)
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    diffusion, following = losses(model, batch, traits.prediction_shift, {"diffusion": 1.0, "next": 1.0})
    return (following if exact else diffusion).item()
