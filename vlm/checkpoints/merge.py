"""Merge an adapter into its model: a checkpoint that needs no adapter beside it.

A QLoRA adapter was trained beside nf4 weights and makes up for their rounding. With ``base_quantize="nf4"`` it is
added to those weights, dequantised, and the checkpoint is the model that was trained; without, to the original
weights, and the checkpoint is a little off it. Either way the result is in float32.
"""

from typing import Literal

import torch
from torch import nn

from vlm.checkpoints.load import base_of, load, merged
from vlm.checkpoints.quantize import quantize
from vlm.checkpoints.writing import new_directory, refuse_existing
from vlm.model import VLMForBlockDiffusion


def merge(adapter: str, output: str, model: str | None = None, base_quantize: Literal["nf4"] | None = None) -> None:
    """Write the model that ``adapter`` makes of its base to the new directory ``output``.

    Args:
        adapter: a PEFT directory.
        output: does not exist yet.
        model: the base, a checkpoint directory or ``embedded``; None takes the one that the adapter names.
        base_quantize: ``nf4`` rounds the base's decoder as QLoRA's training did.

    Raises:
        CheckpointError: adapter, base or output cannot be used; one line that names it.
    """
    refuse_existing(output)
    source = base_of(adapter) if model is None else model
    base, processor = load(None if source == "embedded" else source, dtype=torch.float32, device="cpu")
    result = merged(base if base_quantize is None else rounded(base), adapter)
    with new_directory(output) as fresh:
        result.save_pretrained(fresh)
        processor.save_pretrained(fresh)


def rounded(model: VLMForBlockDiffusion) -> VLMForBlockDiffusion:
    """``model`` with plain linear layers that hold what nf4 keeps of its decoder's weights; changes it in place."""
    quantize(model, "nf4")
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    decoder = model.language_model.get_decoder()
    for name, module in list(decoder.named_modules()):
        if isinstance(module, Linear4bit):
            plain = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
            plain.weight = nn.Parameter(dequantize_4bit(module.weight.data, module.weight.quant_state))
            plain.bias = module.bias
            decoder.set_submodule(name, plain)
    return model
