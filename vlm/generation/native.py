"""Models that decode by their own `generate`: asked and answered as ours are, by another loop.

The deciding choice: such a model stands behind the questions that `vlm.answering` asks (what are its settings, what is
a request, what is the answer) and fills in the same `State`, so everything above sees no difference. Requests are
answered one at a time: the sampler draws for a whole batch from one stream, and an answer would depend on its
neighbours. Three things of transformers' DiffusionGemma (5.23) are put right here:

- Pictures of a prompt see themselves whole only in `generate`, and only if it is told which tokens they are. Without
  that, and in a plain ``forward`` with a 2-D mask, they are read causally and nothing says so. Hence every request
  says it, and nothing here calls ``forward``.
- It makes whole canvases, and its ``max_length`` takes the place of a ``max_new_tokens`` of 256. Here the tokens that
  were asked for are what counts, and what lies behind them is dropped.
- Its ``tokens_per_forward`` leaves the encoder out. Here every pass counts: the encoder's before each canvas, over
  the prompt or the canvas before, and the decoder's at each step.
"""

import math
from dataclasses import dataclass, field
from numbers import Integral, Real
from time import perf_counter
from typing import Any

import torch
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from vlm.generation.request import State
from vlm.processor import refuse_reserved

LEAST_TEMPERATURE = 1e-3  # below it the logits' range leaves float32
FALLBACK = 256  # new tokens where neither request nor checkpoint says; that of transformers
# Its own sampler's values, by the names they have there.
NUMBERS = ("entropy_bound", "t_min", "t_max", "confidence_threshold", "stability_threshold")
CANNOT = {
    "mode": "it denoises canvases and has no other mode",
    "decoder": "presets are for mask diffusion",
    "policy": f"its sampler is the entropy bound, whose values --policy-arg sets ({', '.join(NUMBERS)})",
    "threshold": "it commits by entropy, not by probability: --policy-arg entropy_bound=X",
    "block_size": "the length of its canvas is fixed",
    "slots": "it takes no other strategies",
    "top_p": "its sampler has a temperature only",
    "top_k": "its sampler has a temperature only",
    "repetition_penalty": "its sampler has a temperature only",
    "stop_strings": "only end tokens end its answers",
    "schema": "it takes no grammar",
    "regex": "it takes no grammar",
    "choices": "it takes no grammar",
    "logprobs": "it gives none",
    "trace": "its steps are not recorded",
    "video": "transformers gives it images only",
    "adapter": "its encoder and decoder share their weights, and merging would add an adapter twice",
    "quantize": "its experts are not quantised here",
    "batch_size": "requests are answered one at a time, so that a seed gives the same answer in any company",
}


@dataclass(frozen=True)
class NativeSettings:
    """How a request is decoded.

    Attributes:
        given: keyword arguments of the model's `generate`; what is not in it is the checkpoint's.
        seed: of all that it draws.
    """

    given: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    mode: str = "block"


@dataclass
class NativeRequest:
    """One prompt: what the checkpoint's processor makes of it, all with a batch axis of 1."""

    inputs: dict[str, torch.Tensor]
    seed: int = 0
    strategy: NativeSettings | None = None

    @property
    def input_ids(self) -> torch.Tensor:
        """int64 [P]."""
        return self.inputs["input_ids"][0]


def refuse(kind: str, asked: dict[str, Any]) -> None:
    """ValueError that names the first setting that such a model cannot honour, and why."""
    for name, why in CANNOT.items():
        value = asked.get(name)
        if value and (name, value) not in (("mode", "block"), ("batch_size", 1)):
            raise ValueError(f"{name} does not go with a {kind} model, which decodes by its own generate: {why}")


class NativeProcessor:
    """The checkpoint's own processor, by the names that ours has.

    Args:
        image_token_id: the model's placeholder.
    """

    def __init__(self, processor: ProcessorMixin, image_token_id: int, kind: str):
        self.processor, self.image_token_id, self.kind = processor, image_token_id, kind
        self.tokenizer = processor.tokenizer

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def request(self, messages: list[dict], media: list, seed: int) -> NativeRequest:
        """A conversation as the checkpoint's chat template writes it.

        Raises:
            ValueError: a text holds a reserved token, there is a video, or the processor refuses.
        """
        refuse_reserved(self.tokenizer, messages)
        found = self.processor.apply_chat_template(
            _with_media(messages, iter(media), self.kind),
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip
        return NativeRequest({**_tensors(found), "mm_token_type_ids": self._pictures(found["input_ids"])}, seed)

    def _pictures(self, input_ids: torch.Tensor) -> torch.Tensor:
        """1 at tokens of pictures, else 0, [1, P]: without it they are read causally."""
        return (input_ids == self.image_token_id).long()


def _tensors(found: BatchFeature) -> dict[str, torch.Tensor]:
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def _with_media(messages: list[dict], media, kind: str) -> list[dict]:
    """The conversation with opened pictures in place of their paths."""

    def part(p: dict) -> dict:
        if p["type"] == "video":
            refuse(kind, {"video": True})
        return {"type": "image", "image": next(media)} if p["type"] == "image" else p

    parts = (
        [{"type": "text", "text": m["content"]}] if isinstance(m["content"], str) else m["content"] for m in messages
    )
    return [{"role": m["role"], "content": [part(p) for p in content]} for m, content in zip(messages, parts)]


class NativeModel:
    """A transformers model with its own block-diffusion `generate`.

    Args:
        model: in evaluation mode, where it is to run.
    """

    def __init__(self, model: PreTrainedModel):
        self.model, self.kind, self.device = model, model.config.model_type, model.device
        ends = model.generation_config.eos_token_id
        self.ends = frozenset(ends if isinstance(ends, list) else [ends])

    def settings(self, base: NativeSettings | None, asked: dict[str, Any]) -> NativeSettings:
        """``base`` with everything in ``asked`` that is not None, by the names that our settings have.

        Raises:
            ValueError: for a setting that it cannot honour, or a value that cannot be.
        """
        refuse(self.kind, asked)
        base, said = base or NativeSettings(), {name: v for name, v in asked.items() if v is not None}
        given = {**base.given, **_own_values(said.get("policy_args") or {})}
        for name, theirs in (("max_new_tokens", "max_new_tokens"), ("denoising_steps", "max_denoising_steps")):
            if name in said:
                given[theirs] = _whole(name, said[name], 1)
        if "temperature" in said:
            low = _number("temperature", said["temperature"], LEAST_TEMPERATURE)
            # Its temperature falls from t_max to t_min, which must differ: these are the same in float32.
            given |= {"t_min": low, "t_max": math.nextafter(low, math.inf)}
        return NativeSettings(given, _whole("seed", said.get("seed", base.seed), 0))

    def answer(self, requests: list[NativeRequest], config: NativeSettings, on_step=None) -> list[State]:
        """The final state of every request, in order; ``on_step`` as in `Loop`."""
        return [self._alone(request, request.strategy or config, on_step) for request in requests]

    def _alone(self, request: NativeRequest, config: NativeSettings, on_step) -> State:
        prompt, start = request.input_ids.tolist(), perf_counter()
        state = State(request, config, len(prompt), prompt, self._room(len(prompt), config))

        def prefilled(*_) -> None:  # once: a module with a hook could not be compiled for the passes to come
            hook.remove()
            self._wait()
            state.prefill_s = perf_counter() - start

        hook = self.model.model.encoder.register_forward_hook(prefilled)
        try:
            self._generate(request, config, state, _Steps(state, self.ends, on_step))
        finally:
            hook.remove()
        self._wait()
        state.decode_s = perf_counter() - start - state.prefill_s
        return state

    def _generate(self, request: NativeRequest, config: NativeSettings, state: State, steps: "_Steps") -> None:
        on_gpu = self.device.type == "cuda"
        lengths = {"max_new_tokens": state.room, "max_length": None}
        compiled = {} if on_gpu else {"disable_compile": True}
        with torch.random.fork_rng(devices=[self.device] if on_gpu else []):
            torch.manual_seed(request.seed)
            self.model.generate(
                **self._placed(request.inputs), streamer=steps, **{**config.given, **lengths, **compiled}
            )

    def _room(self, prompt: int, config: NativeSettings) -> int:
        """How many tokens may be generated: those asked for, in canvases that fit the position range.

        Raises:
            ValueError: there is room for none behind a prompt of so many tokens.
        """
        own, limit = self.model.generation_config, self.model.config.text_config.max_position_embeddings
        asked = config.given.get("max_new_tokens") or own.max_new_tokens
        asked = asked or (own.max_length - prompt if own.max_length else FALLBACK)
        canvas = self.model.config.canvas_length
        room = min(asked, (limit - prompt) // canvas * canvas)
        if room < 1:
            raise ValueError(f"the prompt has {prompt} tokens and a canvas {canvas}; the position limit is {limit}")
        return room

    def _placed(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {n: t.to(self.device, self.model.dtype if t.is_floating_point() else None) for n, t in inputs.items()}

    def _wait(self) -> None:
        """Until the device has done what it was given, so that seconds are those of the work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class _Steps:
    """transformers' streamer protocol: keeps a request's state, and counts, as `generate` goes on."""

    def __init__(self, state: State, ends: frozenset[int], on_step):
        self.state, self.ends, self.on_step = state, ends, on_step
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        """The prompt, then every finished canvas [1, C]."""
        if not self.prompt_seen:
            self.prompt_seen = True
            return
        self.state.forwards += 1  # of the encoder, before this canvas
        self.state.tokens += self._answered(value[0].tolist())
        self.state.draft = None
        self._told()

    def put_draft(self, value: torch.Tensor) -> None:
        """The canvas [1, C] after a step."""
        self.state.forwards += 1  # of the decoder
        self.state.draft = self._cut(value[0].tolist())
        self._told()

    def end(self) -> None: ...

    def _answered(self, canvas: list[int]) -> list[int]:
        """What of a canvas belongs to the answer, up to its end token; says why the answer ends if it does."""
        new = self._cut(canvas)
        if new and new[-1] in self.ends:
            self.state.finish_reason = "stop"
        elif len(self.state.generated) + len(new) == self.state.room:
            self.state.finish_reason = "length"
        return new

    def _cut(self, canvas: list[int]) -> list[int]:
        canvas = canvas[: self.state.room - len(self.state.generated)]
        return canvas[: next((k for k, token in enumerate(canvas, 1) if token in self.ends), None)]

    def _told(self) -> None:
        if self.on_step is not None:
            self.on_step([self.state])


def _own_values(values: dict[str, Any]) -> dict[str, Any]:
    """Values of its sampler as its `generate` takes them."""
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in NUMBERS:
            raise ValueError(f"policy_args {name!r} is not one of {', '.join(NUMBERS)}")
        if name == "stability_threshold":
            given[name] = _whole(name, value, 0)
            continue
        given[name] = _number(name, value, LEAST_TEMPERATURE if name in ("t_min", "t_max") else math.ulp(0.0))
    if "entropy_bound" in given:
        from transformers.models.diffusion_gemma.generation_diffusion_gemma import EntropyBoundSamplerConfig

        given["sampler_config"] = EntropyBoundSamplerConfig(given.pop("entropy_bound"))
    return given


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} {value!r} must be a whole number")
    if not least <= value < 2**63:
        raise ValueError(f"{name} {value} must be at least {least}" + ("" if value < least else " and below 2**63"))
    return int(value)


def _number(name: str, value: Any, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= value < math.inf:
        at_least = "positive" if least < LEAST_TEMPERATURE else f"a number of at least {least}: it draws at random"
        raise ValueError(f"{name} {value!r} must be {at_least}")
    return float(value)
