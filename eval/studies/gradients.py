"""How much of a gradient is noise: its variance over draws of levels and masks, at fixed weights on a fixed batch.

The variance of a training run's gradient norm also holds what the batches differ by and how the weights move; here
only the noise is drawn anew.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch

from vlm.training.collate import IGNORED, NoisedSample, collate, noise_sample, noise_tokens
from vlm.training.data import PlaygroundStream, Prepared
from vlm.training.losses import losses
from vlm.training.recipe import Recipe

DRAWS = 12
WINDOW = 16  # samples drawn, of which a batch is taken


def gradient_noise(model, processor, recipe: Recipe) -> float:
    """Variance of the gradient that noise alone makes: on one held-out batch, over the squared length of its mean.

    The vision tower, frozen in a study, does not count; progress is that of the run's end.
    """
    data = replace(recipe.data, window=WINDOW)
    samples = next(iter(PlaygroundStream(data, processor, model.config.traits, recipe.seed, "heldout"))).samples
    parts = [p for name, p in model.named_parameters() if not name.startswith("vision_tower.")]
    model.vision_tower.requires_grad_(False)

    def drawn() -> Iterator[torch.Tensor]:
        for noised in _noise_draws(samples, model, processor, recipe):
            model.zero_grad()
            batch_loss(model, samples, noised, processor, recipe).backward()
            yield torch.cat([p.grad.flatten().cpu() for p in parts if p.grad is not None])

    variance, mean_square = variance_and_mean_square(drawn())
    return variance / max(mean_square, 1e-12)


def variance_and_mean_square(gradients: Iterator[torch.Tensor]) -> tuple[float, float]:
    """E|g - E g|² and |E g|² of independent gradients [P], both without bias: |mean g|² has the mean's noise in it."""
    total, squares, count = 0.0, 0.0, 0
    for gradient in gradients:
        total, squares, count = total + gradient.double(), squares + gradient.double().square().sum().item(), count + 1
    mean_square = (total / count).square().sum().item()
    variance = (squares / count - mean_square) * count / (count - 1)
    return variance, mean_square - variance / count


def _noise_draws(samples: list[Prepared], model, processor, recipe: Recipe) -> Iterator[list[NoisedSample]]:
    tokens = noise_tokens(processor.tokenizer, model.config.traits, recipe.noise)
    for draw in range(DRAWS):
        options = (tokens, recipe.noise, recipe.objective, recipe.seed, draw, 1.0)
        yield [noise_sample(sample, *options) for sample in samples]


def batch_loss(model, samples: list[Prepared], noised: list[NoisedSample], processor, recipe: Recipe) -> torch.Tensor:
    """The training loss of one batch as the trainer computes it."""
    totals = {
        "diffusion": sum(n.normaliser for n in noised),
        "next": float(sum((n.next_targets != IGNORED).sum() for n in noised)),
    }
    batch = collate(samples, noised, processor.tokenizer.pad_token_id)
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    diffusion, ar = losses(model, batch, model.config.traits.prediction_shift, totals)
    return diffusion + recipe.objective.ar_weight * ar
