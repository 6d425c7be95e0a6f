"""Attention of an open block in two parts, so that the part over what stands before the block can be kept.

Between two denoising passes of one block the keys before it stay as they are, and its queries change little. Each
part gives an output and the log-sum-exp of its scores, and these two are enough to merge parts exactly:

    L = log(exp L1 + exp L2),  A = exp(L1 - L) A1 + exp(L2 - L) A2

A pass that uses a kept part reads no key before the block (FlashBlock, arXiv 2602.05305). Which passes may is decided
by `vlm.generation.reuse`. `attending` lets a backbone run with this function instead of its own; torch's SDPA gives
no log-sum-exp, so the parts are plain matrix products, on any device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "block_in_two_parts"


@dataclass
class Part:
    """One batch row of a pass whose open block attends in two parts.

    Attributes:
        n_cached: slots of the row that hold keys before this pass.
        n_clean: rows fed that stand before the open block.
        n_open: rows of the open block, right behind them.
        kept: by layer, output [H, n_open, d] and log-sum-exp [H, n_open, 1] over everything before the block. A layer
            that is there is used, one that is not is worked out and put there.
    """

    n_cached: int
    n_clean: int
    n_open: int
    kept: dict[int, tuple[torch.Tensor, torch.Tensor]]


@contextmanager
def attending(decoder, parts: list[Part | None] | None) -> Iterator[dict]:
    """Have ``decoder`` attend as ``parts``, one per batch row, say; gives what to call it with besides.

    None for a row is attention as usual, None for all of them changes nothing at all.
    """
    if parts is None:
        yield {}
        return
    usual = decoder.config._attn_implementation
    decoder.config._attn_implementation = NAME
    try:
        yield {"parts": parts}
    finally:
        decoder.config._attn_implementation = usual


def two_parts(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    parts: list[Part | None] = (),
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """The attention function: query [B, H, L, d], key and value [B, K, W, d] to [B, L, H, d], row by row.

    Args:
        attention_mask: bool [B, 1, L, W], True may attend.
        parts: see `attending`. Padding behind the rows of a part comes out as zeros.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = []
    for b, part in enumerate(parts):
        row = (query[b : b + 1], key[b : b + 1], value[b : b + 1], attention_mask[b : b + 1])
        if part is None:
            out.append(sdpa_attention_forward(module, *row, scaling=scaling, **kwargs)[0])
        else:
            out.append(_row(module, part, *row, scaling=scaling, **kwargs))
    return torch.cat(out), None


def _row(module, part: Part, query, key, value, mask, scaling: float, **kwargs) -> torch.Tensor:
    """One batch row [1, L, H, d]: the clean rows as usual, then the open block."""
    out = query.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1])
    before, clean, fed = part.n_cached + part.n_clean, part.n_clean, part.n_clean + part.n_open
    if clean:
        seen = (query[:, :, :clean], key[:, :, :before], value[:, :, :before], mask[:, :, :clean, :before])
        out[:, :clean] = sdpa_attention_forward(module, *seen, scaling=scaling, **kwargs)[0]
    block = query[0, :, clean:fed]  # [H, n_open, d]

    def over(slots: slice) -> tuple[torch.Tensor, torch.Tensor]:
        return partial_attention(block, key[0, :, slots], value[0, :, slots], mask[0, 0, clean:fed, slots], scaling)

    if module.layer_idx not in part.kept:
        part.kept[module.layer_idx] = over(slice(0, before))
    merged = merge(*part.kept[module.layer_idx], *over(slice(before, before + part.n_open)))
    out[0, clean:fed] = merged.transpose(0, 1).to(out.dtype)
    return out


def partial_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over some of the keys: output [H, L, d] and log-sum-exp of the scores [H, L, 1], in fp32 at least.

    A row that may see none of them gets zeros, and minus infinity.

    Args:
        query: [H, L, d]; ``key`` and ``value`` [K, W, d], K a divisor of H.
        mask: bool [L, W].
    """
    heads, length, width = query.shape
    grouped = query.reshape(key.shape[0], -1, width)  # [K, H / K * L, d]: heads that share keys stand together
    exact = torch.promote_types(query.dtype, torch.float32)
    scores = (grouped @ key.transpose(1, 2)).to(exact).mul_(scaling)  # [K, H / K * L, W]
    scores.view(heads, length, -1).masked_fill_(~mask, -torch.inf)
    top = scores.amax(-1, keepdim=True) if key.shape[1] else scores.new_full((*scores.shape[:2], 1), -torch.inf)
    top = top.masked_fill(top == -torch.inf, 0)  # of a row that sees nothing: its weights are zeros, its sum is 0
    weights = scores.sub_(top).exp_()
    total = weights.sum(-1, keepdim=True)
    out = (weights.to(value.dtype) @ value).to(exact) / total.clamp(min=torch.finfo(exact).tiny)
    return out.view(heads, length, -1), (top + total.log()).view(heads, length, 1)


def merge(one: torch.Tensor, one_lse: torch.Tensor, other: torch.Tensor, other_lse: torch.Tensor) -> torch.Tensor:
    """Attention over two sets of keys from what each gave: outputs [H, L, d], log-sum-exps [H, L, 1].

    At least one of the two sets must hold a key that the row sees.
    """
    both = torch.logaddexp(one_lse, other_lse)
    return (one_lse - both).exp() * one + (other_lse - both).exp() * other


AttentionInterface.register(NAME, two_parts)
