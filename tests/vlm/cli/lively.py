"""A tiny random model whose answers are plain letters and depend on what it is shown, as a trained one's do."""

import torch

from tests.vlm.tiny import tiny_model


def lively_model(**traits):
    """Weights widened until attention is sharp; every token that is not printable ASCII is suppressed."""
    model, processor = tiny_model(dtype=torch.float32, **traits)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and (".layers." in name or "projector" in name):
                weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5 * 3)
    texts = [processor.tokenizer.decode([token]) for token in range(len(processor.tokenizer))]
    plain = [text.isascii() and text.isprintable() and bool(text.strip()) for text in texts]
    end = model.generation_config.eos_token_id
    model.generation_config.suppress_tokens = [t for t, keep in enumerate(plain) if not keep or t < 9 and t != end]
    return model, processor


def save(path, **traits) -> str:
    for part in lively_model(**traits):
        part.save_pretrained(path)
    return str(path)
