"""A request and its state while it decodes. All per-request state lives here, never in a strategy."""

from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING

import torch

from vision_encoders import Picture, Pictures
from vlm.composite import Media

if TYPE_CHECKING:
    from vlm.cache import BlockCache
    from vlm.composite_rows import Stream
    from vlm.generation.constraint import Matcher
    from vlm.generation.diffuspec import Drafting
    from vlm.generation.reuse import External
    from vlm.generation.strategy import Strategy


@dataclass
class Request:
    """One prompt to continue.

    Attributes:
        input_ids: int64 [P], media placeholders expanded.
        pixel_values, pixel_values_videos: [N, 3, S, S] pixels of its images and of its video frames, or None; images
            that keep their shapes come as `vision_encoders.Pictures`.
        answer_spans: (start, end) of earlier answers inside the prompt: on the ``response`` grid each starts anew.
        seed: of its sampling; two requests with the same seed and prompt get the same answer in any batch.
        strategy: how to decode it; None means as the rest of its batch.
        canvas: tokens of the answer that are given, the mask id at those to be filled in; None gives none. The answer
            is then no longer than the canvas.
        media: its pictures, where the decoder sees them itself.
    """

    input_ids: torch.Tensor
    pixel_values: torch.Tensor | Pictures | None = None
    pixel_values_videos: torch.Tensor | None = None
    answer_spans: list[tuple[int, int]] = field(default_factory=list)
    seed: int = 0
    strategy: "Strategy | None" = None
    canvas: list[int] | None = None
    media: Media | None = None

    @property
    def has_media(self) -> bool:
        return any(given is not None for given in (self.pixel_values, self.pixel_values_videos, self.media))

    @cached_property
    def digests(self) -> dict[str, list[bytes]]:
        """A content hash of every image and of every frame, as the vision tower will see them.

        Of `media` there is one for all pictures together.
        """
        if self.media is not None:
            return {kind: [self.media.digest] for kind in ("image", "video")}
        kinds = {"image": self.pixel_values, "video": self.pixel_values_videos}
        return {kind: [] if pixels is None else [_digest(kind, p) for p in pixels] for kind, pixels in kinds.items()}


def _digest(kind: str, pixels: torch.Tensor | Picture) -> bytes:
    views, plan = pixels if isinstance(pixels, Picture) else (pixels, None)
    values = views.detach().cpu().float().contiguous()
    digest = blake2b(values.numpy().tobytes(), digest_size=16, key=f"{kind}{tuple(values.shape)}".encode())
    digest.update(b"" if plan is None else repr(plan).encode())  # the same views may be arranged in several ways
    return digest.digest()


@dataclass(eq=False)
class State:
    """Where a request stands; equal to itself only.

    Attributes:
        tokens: final tokens, prompt included.
        room: how many tokens it may generate.
        offset: positions taken before this prompt by a cache that was handed in.
        cached: how many of ``tokens`` have their KV in the cache.
        reused: how many of those came from the prefix store.
        block_start: first position of the open block.
        canvas: token ids of the open block, the mask id at open slots; None between blocks.
        confidence: probability of the canvas's tokens when they were committed: 1 for given and forced ones, NaN at
            open slots.
        step: denoising steps the open block has had.
        fence: the slot of the open block from which slots wait, where the spans set one for the block's whole life.
        proposed: the open block with the last pass's proposals in its open slots; empty before the first pass.
        stable: how many passes in a row have proposed that, less one.
        credit: of tokens that were an open slot's best before, by slot and token (`rescore.Credit`).
        rest: slots that a sliding window, or spans that hold blocks, take along into the next block, and their
            confidence.
        blocks: (start, end) of closed blocks, where their sizes vary.
        draft: tokens behind the final ones that wait to be verified (speculative mode); None when there are none.
        verified: KV of what a second model has read of it (`verifier`); None before and without that.
        drafting: what is kept from draft to draft (`diffuspec`); None where nothing is.
        external: what the open block keeps of its attention over everything before it (`reuse.FlashBlock`).
        kept: token by position of the rows whose KV the cache holds although it is not exact (`kept`), in the order in
            which they stand there; the token is what the row held when its KV was worked out.
        rereads: how many times the open block has been read again though it could be closed (`reedit`).
        logprobs: log-probability of every generated token under the model, constraint included; 0 for forced ones.
        prompt_embeds: [P, D] of a prompt with media, while some of its rows have no KV.
        stream: where the pictures of `Request.media` stand, once the prompt has been read.
        matcher: where the request stands in its grammar.
        forwards: forward passes in which the request had rows.
        finish_reason: ``stop`` (end token, stop string or a grammar at its end), ``repetition`` or ``length``; None
            while it runs.
        prefill_s, decode_s: seconds of its first forward pass (media encoding included), a second model's first one
            among them, and of all later ones.
    """

    request: Request
    strategy: "Strategy"
    prompt_length: int
    tokens: list[int]
    room: int
    offset: int = 0
    cached: int = 0
    reused: int = 0
    block_start: int = 0
    canvas: list[int] | None = None
    confidence: list[float] = field(default_factory=list)
    step: int = 0
    fence: int | None = None
    proposed: list[int] = field(default_factory=list)
    stable: int = 0
    credit: dict[int, dict[int, float]] = field(default_factory=dict)
    rest: list[tuple[int, float]] = field(default_factory=list)
    blocks: list[tuple[int, int]] = field(default_factory=list)
    draft: list[int] | None = None
    verified: "BlockCache | None" = None
    drafting: "Drafting | None" = None
    external: "External | None" = None
    kept: dict[int, int] = field(default_factory=dict)
    rereads: int = 0
    logprobs: list[float] = field(default_factory=list)
    forwards: int = 0
    finish_reason: str | None = None
    prefill_s: float = 0.0
    decode_s: float = 0.0
    generator: torch.Generator | None = None
    prompt_embeds: torch.Tensor | None = None
    stream: "Stream | None" = None
    matcher: "Matcher | None" = None

    @property
    def generated(self) -> list[int]:
        return self.tokens[self.prompt_length :]

    @property
    def tokens_per_forward(self) -> float:
        """Generated per forward pass; no pass, where a grammar or a canvas decides everything, counts as one."""
        return len(self.generated) / max(1, self.forwards)

    @property
    def end(self) -> int:
        """One past the last position its answer may take."""
        return self.prompt_length + self.room
