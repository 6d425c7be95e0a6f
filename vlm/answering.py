"""From a conversation to an answer with its counts: what the command line, the batch runner and evaluation share."""

from dataclasses import asdict, dataclass

import torch

from vlm.generation.config import BlockGenerationConfig
from vlm.generation.generate import answer, build_strategy
from vlm.generation.request import Request, State
from vlm.layout import answer_spans
from vlm.model import VLMForBlockDiffusion
from vlm.processor import VLMProcessor, texts_of


@dataclass
class Answer:
    """One answer and what it cost.

    Attributes:
        tokens: generated tokens, the end token included.
        forwards: every forward pass in which the request had rows: prefill, denoising and closing.
        prefill_s: seconds of the first pass, media encoding included; in a batch, of the whole batch's pass.
        decode_s: seconds of the later passes, likewise.
    """

    answer: str
    tokens: int
    forwards: int
    tokens_per_forward: float
    prefill_s: float
    decode_s: float
    finish_reason: str
    mode: str

    def to_dict(self) -> dict:
        return asdict(self)


def build_request(processor: VLMProcessor, messages: list[dict], media: list, seed: int = 0) -> Request:
    """Tokenise a conversation that waits for the assistant's answer.

    Raises:
        ValueError: a text holds a reserved token, or the last message is not a question of the user's.
    """
    _refuse_no_question(messages[-1])
    encoded = processor.encode(messages, media, add_generation_prompt=True)
    images, frames = (torch.from_numpy(p) if len(p) else None for p in (encoded.images, encoded.frames))
    spans = answer_spans(encoded.is_answer)
    return Request(torch.from_numpy(encoded.input_ids), images, frames, spans, seed)


def answer_batch(
    model: VLMForBlockDiffusion,
    processor: VLMProcessor,
    requests: list[Request],
    config: BlockGenerationConfig,
    on_step=None,
) -> list[Answer]:
    """Answer requests as one batch, in order; ``on_step`` is called after every forward pass, see `Loop`.

    Raises:
        ValueError: for illegal settings, or a prompt that fills the position range.
    """
    device = model.device
    for request in requests:
        request.input_ids = request.input_ids.to(device)
        for name in ("pixel_values", "pixel_values_videos"):
            pixels = getattr(request, name)
            setattr(request, name, pixels if pixels is None else pixels.to(device))
    return [_answer(processor, state, config.mode) for state in answer(model, requests, config, on_step=on_step)]


def settings(model: VLMForBlockDiffusion, **overrides) -> BlockGenerationConfig:
    """The checkpoint's generation settings with every override that is not None.

    Raises:
        ValueError: for a setting outside its range, or one that the checkpoint's traits do not allow.
    """
    config = BlockGenerationConfig(**model.generation_config.to_dict())
    for name, value in overrides.items():
        if value is not None:
            setattr(config, name, value)
    if overrides.get("denoising_steps") is not None and overrides.get("policy") is None:
        if overrides.get("threshold") is not None:
            raise ValueError("threshold and denoising_steps exclude each other: give one of them")
        config.policy = "static"
    build_strategy(model, config)  # refuses illegal settings before any request is opened
    return config


def _refuse_no_question(message: dict) -> None:
    if message["role"] != "user":
        raise ValueError(f"the last message must be the user's, not the {message['role']}'s")
    if not any(text.strip() for text in texts_of(message)):
        raise ValueError("the prompt is empty: the last message holds no text")


def _answer(processor: VLMProcessor, state: State, mode: str) -> Answer:
    tokens = len(state.generated)
    return Answer(
        answer=processor.decode(state.generated).strip(),
        tokens=tokens,
        forwards=state.forwards,
        tokens_per_forward=round(tokens / state.forwards, 3),
        prefill_s=round(state.prefill_s, 4),
        decode_s=round(state.decode_s, 4),
        finish_reason=state.finish_reason,
        mode=mode,
    )
