"""From a conversation to an answer with its counts: what the command line, the batch runner and evaluation share."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jinja2 import TemplateError

from vision_encoders.pictures import joined
from vlm.generation.commit import POLICIES, STEPPED, THRESHOLDED
from vlm.generation.config import BlockGenerationConfig
from vlm.generation.constraint import Grammar
from vlm.generation.generate import answer
from vlm.generation.native import NativeModel, NativeProcessor, NativeRequest, NativeSettings
from vlm.generation.prefix import PrefixStore
from vlm.generation.presets import override
from vlm.generation.request import Request, State
from vlm.generation.strategy import Strategy, build_strategy
from vlm.layout import answer_spans
from vlm.model import VLMForBlockDiffusion
from vlm.processor import VLMProcessor, texts_of

# What a single request may set for itself, beside a grammar: fields of the generation settings.
SETTINGS = (
    "decoder",
    "mode",
    "policy",
    "policy_args",
    "threshold",
    "block_size",
    "denoising_steps",
    "slots",
    "max_new_tokens",
)
SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty", "stop_strings")
GRAMMARS = {"schema": Grammar.json_schema, "regex": Grammar.regex, "choices": Grammar.choices}


@dataclass
class Answer:
    """One answer and what it cost.

    Attributes:
        tokens: generated tokens, the end token included.
        forwards: every forward pass in which the request had rows: prefill, denoising and closing.
        prefill_s: seconds of the first pass, media encoding included; in a batch, of the whole batch's pass.
        decode_s: seconds of the later passes, likewise.
        logprobs: ``[token text, log-probability]`` of every token, if asked for.
    """

    answer: str
    tokens: int
    forwards: int
    tokens_per_forward: float
    prefill_s: float
    decode_s: float
    finish_reason: str
    mode: str
    logprobs: list[tuple[str, float]] | None = None

    def to_dict(self) -> dict:
        fields = asdict(self)
        return fields if self.logprobs is not None else {k: v for k, v in fields.items() if k != "logprobs"}


def build_request(
    processor: VLMProcessor | NativeProcessor, messages: list[dict], media: list, seed: int = 0
) -> Request | NativeRequest:
    """Tokenise a conversation that waits for the assistant's answer.

    Raises:
        ValueError: a text holds a reserved token, the last message is not a question of the user's, or the chat
            template refuses the conversation.
    """
    _refuse_no_question(messages[-1])
    try:
        if isinstance(processor, NativeProcessor):
            return processor.request(messages, media, seed)
        encoded = processor.encode(messages, media, add_generation_prompt=True)
    except TemplateError as error:
        raise ValueError(f"the checkpoint's chat template refuses the conversation ({error})") from error
    images, frames = joined([encoded.images]), joined([encoded.frames])
    spans = answer_spans(encoded.is_answer)
    return Request(torch.from_numpy(encoded.input_ids), images, frames, spans, seed, media=encoded.media)


def answer_batch(
    model: VLMForBlockDiffusion | NativeModel,
    processor: VLMProcessor | NativeProcessor,
    requests: list[Request] | list[NativeRequest],
    config: BlockGenerationConfig | NativeSettings,
    on_step=None,
    store: PrefixStore | None = None,
    max_batch: int | None = None,
    logprobs: bool = False,
) -> list[Answer]:
    """Answer requests as one batch, in order; for ``on_step``, ``store`` and ``max_batch`` see `Loop`.

    A model with its own `generate` answers one by one, keeps no store and gives no log-probabilities.

    Raises:
        ValueError: for illegal settings, or a prompt that fills the position range.
    """
    if isinstance(model, NativeModel):
        return [_answer(processor, state, False) for state in model.answer(requests, config, on_step)]
    device = model.device
    for request in requests:
        request.input_ids = request.input_ids.to(device)
        for name in ("pixel_values", "pixel_values_videos"):
            pixels = getattr(request, name)
            setattr(request, name, pixels if pixels is None else pixels.to(device))
    states = answer(model, requests, config, None, on_step, store, max_batch, tokenizer=processor.tokenizer)
    return [_answer(processor, state, logprobs) for state in states]


def own_strategy(model, processor, config, given: Mapping[str, Any]) -> Strategy | NativeSettings | None:
    """How a request wants to be decoded that says so itself; None if it says nothing.

    Args:
        config: settings of the others.
        given: `SETTINGS`, `SAMPLING` and `GRAMMARS` by name; anything else in it is ignored.

    Raises:
        ValueError: for a value that cannot be, naming it, or more than one grammar.
    """
    overrides = {k: given[k] for k in (*SETTINGS, *SAMPLING) if given.get(k) is not None}
    if isinstance(model, NativeModel):
        return model.settings(config, {**overrides, **{k: given.get(k) for k in (*GRAMMARS, "logprobs")}})
    grammars = {k: given[k] for k in GRAMMARS if given.get(k) is not None}
    if not overrides and not grammars:
        return None
    if len(grammars) > 1:
        raise ValueError(f"{' and '.join(grammars)} exclude each other: give one of them")
    try:
        own = settings(model, config, processor.tokenizer, **overrides)
        grammar = next((GRAMMARS[name](value) for name, value in grammars.items()), None)
    except TypeError:
        raise ValueError(f"a setting is of the wrong type: {overrides | grammars}") from None
    return build_strategy(model, own, grammar, processor.tokenizer)


def settings(
    model: VLMForBlockDiffusion | NativeModel, base=None, tokenizer=None, **overrides
) -> BlockGenerationConfig | NativeSettings:
    """The checkpoint's generation settings, or ``base``, with every override that is not None.

    An override ``decoder`` first sets all that its preset decides, see `vlm.generation.presets`.

    Raises:
        ValueError: for a setting outside its range, or one that the checkpoint's traits do not allow.
    """
    if isinstance(model, NativeModel):
        return model.settings(base, overrides)
    config = BlockGenerationConfig(**(base or model.generation_config).to_dict())
    given = {name: value for name, value in overrides.items() if value is not None}
    override(config, given, model.config.traits)
    if "denoising_steps" in given and "policy" not in given and "decoder" not in given:
        if "threshold" in given:
            raise ValueError("threshold and denoising_steps exclude each other: give one of them")
        config.policy = "static"
    for name, policies in (("threshold", THRESHOLDED), ("denoising_steps", STEPPED)):
        if name in given and config.policy in POLICIES and config.policy not in policies:
            raise ValueError(f"{name} {given[name]} means nothing to policy {config.policy!r}")
    build_strategy(model, config, tokenizer=tokenizer)  # refuses illegal settings before any request is opened
    return config


def _refuse_no_question(message: dict) -> None:
    if message["role"] != "user":
        raise ValueError(f"the last message must be the user's, not the {message['role']}'s")
    if not any(text.strip() for text in texts_of(message)):
        raise ValueError("the prompt is empty: the last message holds no text")


def _answer(processor: VLMProcessor, state: State, logprobs: bool) -> Answer:
    told = [(processor.tokenizer.decode([t]), round(p, 4)) for t, p in zip(state.generated, state.logprobs)]
    return Answer(
        answer=processor.decode(state.generated).strip(),
        tokens=len(state.generated),
        forwards=state.forwards,
        tokens_per_forward=round(state.tokens_per_forward, 3),
        prefill_s=round(state.prefill_s, 4),
        decode_s=round(state.decode_s, 4),
        finish_reason=state.finish_reason,
        mode=state.strategy.mode,
        logprobs=told if logprobs else None,
    )
