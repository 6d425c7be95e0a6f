"""A request and its state while it decodes. All per-request state lives here, never in a strategy."""

from dataclasses import dataclass, field

import torch


@dataclass
class Request:
    """One prompt to continue.

    Attributes:
        input_ids: int64 [P], media placeholders expanded.
        pixel_values, pixel_values_videos: [N, 3, H, W] pixels of its images and of its video frames, or None.
        answer_spans: (start, end) of earlier answers inside the prompt: on the ``response`` grid each starts anew.
        seed: of its sampling; two requests with the same seed and prompt get the same answer in any batch.
    """

    input_ids: torch.Tensor
    pixel_values: torch.Tensor | None = None
    pixel_values_videos: torch.Tensor | None = None
    answer_spans: list[tuple[int, int]] = field(default_factory=list)
    seed: int = 0

    @property
    def has_media(self) -> bool:
        return self.pixel_values is not None or self.pixel_values_videos is not None


@dataclass
class State:
    """Where a request stands.

    Attributes:
        tokens: final tokens, prompt included.
        room: how many tokens it may generate.
        offset: positions taken before this prompt by a cache that was handed in.
        cached: how many of ``tokens`` have their KV in the cache.
        block_start: first position of the open block.
        canvas: token ids of the open block, the mask id at open slots; None between blocks.
        step: denoising steps the open block has had.
        prompt_embeds: [P, D] of a prompt with media, while some of its rows have no KV.
        forwards: forward passes in which the request had rows.
        finish_reason: ``stop`` (end token) or ``length``; None while it runs.
        prefill_s, decode_s: seconds of its first forward pass (media encoding included) and of all later ones.
    """

    request: Request
    prompt_length: int
    tokens: list[int]
    room: int
    offset: int = 0
    cached: int = 0
    block_start: int = 0
    canvas: list[int] | None = None
    step: int = 0
    forwards: int = 0
    finish_reason: str | None = None
    prefill_s: float = 0.0
    decode_s: float = 0.0
    generator: torch.Generator | None = None
    prompt_embeds: torch.Tensor | None = None

    @property
    def generated(self) -> list[int]:
        return self.tokens[self.prompt_length :]
