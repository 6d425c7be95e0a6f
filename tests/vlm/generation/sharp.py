"""A tiny random float64 model that says something else in every slot; `tiny_model` is too tame for that."""

import torch

from tests.vlm.tiny import tiny_model


def sharp_model(**traits):
    """Layers widened until attention is sharp; confidences from a tenth to nearly one."""
    model, processor = tiny_model(scale=40.0, **traits)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and ".layers." in name:
                draw = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
                weight.copy_(draw / weight.shape[1] ** 0.5 * 3)
    return model, processor
