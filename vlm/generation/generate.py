"""`generate` with the signature that transformers gives block-diffusion models.

Difference kept on purpose: `tokens_per_forward` counts *every* forward pass in which the request had rows: prefill,
denoising and closing.
"""

from dataclasses import dataclass

import torch
from transformers import LogitsProcessorList, PreTrainedTokenizerFast
from transformers.utils import ModelOutput

from vision_encoders import Pictures
from vlm.cache import BlockCache
from vlm.composite import Media
from vlm.generation.config import BlockGenerationConfig
from vlm.generation.constraint import Grammar
from vlm.generation.loop import Loop
from vlm.generation.prefix import PrefixStore
from vlm.generation.presets import override
from vlm.generation.request import Request, State
from vlm.generation.strategy import build_strategy
from vlm.layout import answer_spans
from vlm.projector import pooled_count


@dataclass
class BlockDiffusionOutput(ModelOutput):
    """Output of `generate`.

    Attributes:
        sequences: int64 [B, L], each prompt and its answer, right-padded.
        tokens_per_forward: generated tokens (the first end token included) per forward pass, float [B]; see `State`.
        states: final state of each request: counts, times and finish reason.
    """

    sequences: torch.LongTensor = None
    tokens_per_forward: torch.FloatTensor = None
    past_key_values: BlockCache | None = None
    states: list[State] | None = None


def answer(
    model,
    requests: list[Request],
    config: BlockGenerationConfig,
    cache: BlockCache | None = None,
    on_step=None,
    store: PrefixStore | None = None,
    max_batch: int | None = None,
    **strategy,
) -> list[State]:
    """Decode requests as one batch; the final states, in order.

    Args:
        strategy: what `build_strategy` takes beside the settings: ``grammar``, ``tokenizer``, ``processors``.
        cache, on_step, store, max_batch: see `Loop`.

    Raises:
        ValueError: for illegal settings, an empty prompt, or a prompt that fills the position range.
    """
    return Loop(model, requests, build_strategy(model, config, **strategy), cache, on_step, store, max_batch).run()


def generate(
    self,
    input_ids: torch.LongTensor,
    attention_mask: torch.Tensor | None = None,
    pixel_values: torch.Tensor | Pictures | None = None,
    pixel_values_videos: torch.Tensor | None = None,
    past_key_values: BlockCache | None = None,
    answer_mask: torch.Tensor | None = None,
    streamer=None,
    generation_config: BlockGenerationConfig | None = None,
    logits_processor: LogitsProcessorList | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    grammar: Grammar | None = None,
    canvas: torch.LongTensor | None = None,
    prefix_store: PrefixStore | None = None,
    media: Media | None = None,
    **kwargs,
) -> BlockDiffusionOutput:
    """Answer a batch of prompts.

    Args:
        input_ids: int64 [B, P], media placeholders expanded.
        attention_mask: [B, P], 0 at padding (either side); None means no padding.
        pixel_values, pixel_values_videos: [N, 3, S, S], all images and all video frames, in reading order; images
            that keep their shapes come as `vision_encoders.Pictures`.
        past_key_values: a `BlockCache` of what came before, one row a prompt; ``input_ids`` are then only the new
            tokens. It comes back holding these prompts and their answers as well (one closing forward pass more);
            hand in an empty one to start a conversation.
        answer_mask: [B, P], True at earlier answers inside the prompts. Only checkpoints with block-causal context and
            response origin need it: there an answer's blocks are its own.
        streamer: gets ``put`` with the prompt and then with closed blocks, ``put_draft`` (where it has one) with the
            open block after every denoising step, ``end`` at the end. Batch size 1 only.
        generation_config: defaults to the checkpoint's; keyword arguments override its fields, ``decoder=NAME`` all
            that the preset decides.
        logits_processor: transformers processors, called at every pass with the final tokens and the logits of a slot.
        tokenizer: needed for ``stop_strings`` and for a grammar.
        grammar: what the answers must keep to.
        canvas: [B, N], answers of N tokens of which some are given and the others, the mask id, are filled in.
        prefix_store: KV of earlier prompts to reuse and to add to.
        media: pictures of a decoder that sees them itself, see `vlm.composite`. Batch size 1 only.

    Raises:
        ValueError: for an unknown keyword or a setting the checkpoint does not allow, naming the value.
    """
    config = BlockGenerationConfig(**(generation_config or self.generation_config).to_dict())
    unknown = [name for name in kwargs if not hasattr(config, name)]
    if unknown:
        raise ValueError(f"unknown generation setting {unknown[0]!r}")
    override(config, kwargs, self.config.traits)
    if streamer is not None and len(input_ids) > 1:
        raise ValueError(f"a streamer serves one prompt at a time, not a batch of {len(input_ids)}")
    requests = _requests(self, input_ids, attention_mask, pixel_values, pixel_values_videos, config.seed)
    if media is not None:
        if len(requests) > 1:
            raise ValueError(f"media serve one prompt at a time, not a batch of {len(requests)}")
        requests[0].media = media
    if answer_mask is not None:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        for request, marks, keep in zip(requests, answer_mask, mask):
            request.answer_spans = answer_spans(marks[keep.bool()].cpu().numpy())
    for request, given in zip(requests, [] if canvas is None else canvas.tolist()):
        request.canvas = given
    if streamer is not None:
        streamer.put(requests[0].input_ids.cpu())
    extra = {"grammar": grammar, "tokenizer": tokenizer, "processors": logits_processor}
    states = answer(self, requests, config, past_key_values, stream_steps(streamer), prefix_store, **extra)
    if streamer is not None:
        streamer.end()
    return BlockDiffusionOutput(
        sequences=_padded([state.tokens for state in states], config.pad_token_id or 0, input_ids.device),
        tokens_per_forward=torch.tensor([s.tokens_per_forward for s in states]),
        past_key_values=past_key_values,
        states=states,
    )


def _requests(model, input_ids, attention_mask, images, frames, seed: int) -> list[Request]:
    """Split a padded batch into single requests with their own media."""
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    prompts = [ids[keep.bool()] for ids, keep in zip(input_ids, mask)]
    grid = (1, 1) if model.vision_tower is None else model.vision_tower.grid
    per_image, per_frame = (pooled_count(grid, side) for side in (1, model.config.frame_pool))
    kinds = ((images, model.config.image_token_id, per_image), (frames, model.config.video_token_id, per_frame))
    split = []
    for pixels, token_id, per_item in kinds:
        placed = [int((ids == token_id).sum()) for ids in prompts]
        if pixels is None:
            split.append([None] * len(prompts))
            continue
        ragged = isinstance(pixels, Pictures)
        counts = pixels.shared_out(placed) if ragged else [number // per_item for number in placed]
        if sum(counts) != len(pixels):
            raise ValueError(f"the prompts hold placeholders for {sum(counts)} pictures but {len(pixels)} are given")
        split.append([part if len(part) else None for part in pixels.split(counts)])
    return [Request(ids, image, frame, seed=seed) for ids, image, frame in zip(prompts, *split)]


def stream_steps(streamer):
    """A step callback that sends closed tokens and drafts to a streamer."""
    if streamer is None:
        return None
    sent = None

    def on_step(states: list[State]) -> None:
        nonlocal sent
        state = states[0]
        start = state.prompt_length if sent is None else sent
        if len(state.tokens) > start:
            streamer.put(torch.tensor(state.tokens[start:]))
        sent = max(start, len(state.tokens))
        if not hasattr(streamer, "put_draft"):
            return
        if state.canvas is not None:
            streamer.put_draft(torch.tensor(state.canvas[max(0, sent - state.block_start) :]))
        elif state.draft:
            streamer.put_draft(torch.tensor(state.draft))

    return on_step


def _padded(sequences: list[list[int]], pad: int, device) -> torch.LongTensor:
    length = max(map(len, sequences))
    return torch.tensor([s + [pad] * (length - len(s)) for s in sequences], device=device)
