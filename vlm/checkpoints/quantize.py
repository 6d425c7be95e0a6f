"""Smaller and faster decoder linears: int8 and nf4.

Only the linear layers inside the decoder change. The embeddings, the output head, the vision tower and the projector
keep their weights: the head decides between tokens, and the media path runs once a prompt, so there is little to gain.

- ``int8`` on CPU is torch's dynamic quantisation: weights by output channel once, activations by the range of each
  call. A row's result therefore depends on the rows beside it: batched and single runs may differ. On CUDA it is
  bitsandbytes' LLM.int8(), whose activations are scaled by row.
- ``nf4`` is bitsandbytes' 4-bit normal float on both, computing in float32 on CPU (bfloat16 is many times slower
  there) and in bfloat16 on CUDA. It saves memory; on CPU it is slower than float32, and exact in the same sense: its
  weights are rounded once and every pass multiplies by the same ones.
"""

import logging
import warnings
from typing import Literal, get_args

import torch
from torch import nn

Kind = Literal["int8", "nf4"]
RUN = 64  # weights that share an nf4 scale
OUTLIER = 6.0  # activations beyond it are multiplied in 16 bits, LLM.int8()'s own threshold (arXiv 2208.07339)


def check_kind(kind: str) -> None:
    """ValueError unless ``kind`` is a quantisation that exists."""
    if kind not in get_args(Kind):
        raise ValueError(f"quantisation {kind!r} is not one of {', '.join(get_args(Kind))}")


def quantize(model, kind: Kind):
    """Quantise the decoder's linear layers in place, where the model stands; returns the model, for inference only.

    Args:
        model: a `vlm.VLMForBlockDiffusion`, adapters merged.

    Raises:
        ValueError: for an unknown kind, a device, weights or a width that it does not serve, or a decoder without
            linear layers (one that is quantised already, for instance).
    """
    check_kind(kind)
    device, decoder = model.device.type, model.language_model.get_decoder()
    if device not in ("cpu", "cuda"):
        raise ValueError(f"quantisation {kind!r} runs on cpu and cuda, not on {device!r}")
    if not any(type(module) is nn.Linear for module in decoder.modules()):  # bitsandbytes' layers are subclasses
        raise ValueError(f"quantisation {kind!r}: the decoder has no plain linear layers")
    if device == "cpu" and model.dtype != torch.float32:
        raise ValueError(f"quantisation {kind!r} on cpu needs float32 weights, not {str(model.dtype)[6:]}")
    if kind == "int8" and device == "cpu":
        _to_dynamic_int8(decoder)
        return model
    if device == "cpu":
        _check_runs(decoder)
    _replace_linears(decoder, _int8 if kind == "int8" else _nf4)
    return model


def _to_dynamic_int8(decoder: nn.Module) -> None:
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    if "x86" in torch.backends.quantized.supported_engines:
        torch.backends.quantized.engine = "x86"  # weights are packed for the engine of the moment
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a later torch will move this to another package
        quantize_dynamic(decoder, {nn.Linear: per_channel_dynamic_qconfig}, dtype=torch.qint8, inplace=True)


def _check_runs(decoder: nn.Module) -> None:
    """bitsandbytes 0.50 packs a weight in runs across its rows but unpacks it row by row on CPU, so rows must fit."""
    for name, module in decoder.named_modules():
        if type(module) is nn.Linear and module.in_features % RUN:
            raise ValueError(
                f"quantisation 'nf4' on cpu needs input widths in multiples of {RUN}; {name} has {module.in_features}"
            )


def _replace_linears(decoder: nn.Module, replacement) -> None:
    """One layer at a time, so that no more than one of them stands in memory twice."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it speaks of optional kernels when it is imported
    for name, module in list(decoder.named_modules()):
        if type(module) is nn.Linear:
            decoder.set_submodule(name, replacement(module))


def _nf4(linear: nn.Linear) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    compute = torch.float32 if linear.weight.device.type == "cpu" else torch.bfloat16
    quantised = Linear4bit(
        linear.in_features, linear.out_features, bias=False, compute_dtype=compute, quant_type="nf4", device="meta"
    )
    weight = Params4bit(linear.weight.data, requires_grad=False, blocksize=RUN, quant_type="nf4", module=quantised)
    quantised.weight, quantised.bias = weight.to(linear.weight.device), linear.bias  # `to` is what quantises
    # CPUs with bfloat16 would repack the weights at the first pass, for a kernel that computes in bfloat16 and refuses
    # some shapes. Without it a pass takes 4/3 of the time there, and gives the same on every CPU.
    quantised.support_avx512bf16_for_cpu = False
    return quantised.eval()


def _int8(linear: nn.Linear) -> nn.Module:
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    quantised = Linear8bitLt(
        linear.in_features,
        linear.out_features,
        bias=False,
        has_fp16_weights=False,
        threshold=OUTLIER,
        device="meta",
    )
    weight = Int8Params(linear.weight.data.cpu(), requires_grad=False, has_fp16_weights=False)
    # Only a move away from the CPU quantises.
    quantised.weight, quantised.bias = weight.to(linear.weight.device), linear.bias
    return quantised.eval()
