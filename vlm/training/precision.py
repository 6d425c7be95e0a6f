"""In which precision a run computes: float32 weights, and matrix products in bfloat16 where that is quick.

A CPU without AVX-512 multiplies bfloat16 hundreds of times more slowly than float32, one with it twice as fast, so the
machine is asked instead of the user.
"""

from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]


def uses_bf16(precision: Precision) -> bool:
    """Whether ``precision`` means bfloat16 on this machine."""
    if precision != "auto":
        return precision == "bf16"
    return torch.cuda.is_available() or _cpu_is_quick_at_bf16()


def _cpu_is_quick_at_bf16() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def autocast(precision: Precision) -> AbstractContextManager:
    """The context that a forward runs under."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(device, torch.bfloat16, enabled=uses_bf16(precision))
