"""A tiny random float64 model that says something else in every slot; `tiny_model` is too tame for that."""

import torch

from tests.vlm.tiny import tiny_model
from vlm.generation.request import Request


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


def prompts(model, count: int = 3) -> list[Request]:
    """Ragged prompts; every other one shows a picture, late: on the sequence grid the first block begins inside it."""
    generator, requests = torch.Generator().manual_seed(1), []
    for k in range(count):
        ids, picture = torch.randint(20, 250, (5 + 3 * k,), generator=generator), None
        if k % 2:
            ids[-5:-1] = model.config.image_token_id
            picture = torch.randn(1, 3, 32, 32, generator=generator, dtype=torch.float64)
        requests.append(Request(ids, picture, seed=k))
    return requests
