"""WeDLM's decoding as published (arXiv 2512.22737), in the plainest way: no cache, no block mask, nothing of ours.

Every pass puts all rows in another order, what is written first and masks behind, each with the position that it has
in the text, and runs the stock model over them under plain causal attention.
"""

from collections.abc import Callable

import torch


@torch.no_grad()
def of_masks(stock, tokens: list[int], mask: int, prompt: torch.Tensor | None = None) -> torch.Tensor:
    """Logits [M, V] of the masks among ``tokens``, in order; ``prompt`` [P, D] stands in for the first embeddings."""
    embeds = stock.get_input_embeddings()(torch.tensor(tokens))
    if prompt is not None:
        embeds[: len(prompt)] = prompt
    order = sorted(range(len(tokens)), key=lambda place: tokens[place] == mask)  # stable
    seen = torch.ones(len(order), len(order)).tril().bool()[None, None]
    rows = {"inputs_embeds": embeds[order][None], "position_ids": torch.tensor([order]), "attention_mask": seen}
    return stock(**rows).logits[0, -tokens.count(mask) :]


def surest(tau: float) -> Callable:
    """The reference generator's choice from probabilities [M, V] of masks: all of at least ``tau``, else the best."""

    def choose(probability: torch.Tensor, places: list[int]) -> list[int]:
        best = probability.amax(-1)
        return (best >= tau).nonzero().flatten().tolist() or [int(best.argmax())]

    return choose


def entropies(tau: float, penalty: float) -> Callable:
    """The engine's: entropy, and a penalty for the distance from the first mask, below ``tau``, else the least."""

    def choose(probability: torch.Tensor, places: list[int]) -> list[int]:
        entropy = -torch.special.xlogy(probability, probability).sum(-1)
        dear = entropy + penalty * (torch.tensor(places) - places[0])
        return (dear < tau).nonzero().flatten().tolist() or [int(dear.argmin())]

    return choose


def published(
    stock, prompt: list[int], mask: int, banned: list[int], window: int, new: int, choose: Callable,
    streams: bool, end: int | None = None, embeds: torch.Tensor | None = None,
) -> tuple[list[int], int]:  # fmt: skip
    """``new`` greedy tokens, and the passes they took, the last of which decides the last one.

    Args:
        window: masks of a block, or slots of a window that always has as many behind what is written without a gap.
        streams: whether it is such a window.
        end: a token that ends the answer.
        embeds: of the prompt [P, D], where it is more than text.
    """
    tokens, passes = list(prompt), 0
    while True:
        first = tokens.index(mask) if mask in tokens else len(tokens)
        written = tokens[len(prompt) : first][:new]
        if end in written:
            return written[: written.index(end) + 1], passes
        if len(written) == new:
            return written, passes
        if streams or first == len(tokens):
            tokens += [mask] * (first + window - len(tokens))
        logits = of_masks(stock, tokens, mask, embeds)
        logits[:, banned] = -torch.inf
        places = [place for place, token in enumerate(tokens) if token == mask]
        for number in choose(logits.softmax(-1), places):
            tokens[places[number]] = int(logits[number].argmax())
        passes += 1
