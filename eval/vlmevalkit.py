"""This package's models inside VLMEvalKit, which has no plugins: a model class, and its entry in VLMEvalKit's table.

    import eval.vlmevalkit
    eval.vlmevalkit.register("my-model", "runs/demo/checkpoint-4000")   # before its run.py is called
    # python run.py --data MMBench_DEV_EN --model my-model

VLMEvalKit hands over a list of parts, ``{"type": "image" | "text" | "video", "value": a path or a text}``. The
deciding choice: nothing of VLMEvalKit is imported until its table is written to, and its class is one only then; what
an answer is made of can be used, and tested, without it.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from data_pipelines.media import open_media
from data_pipelines.record import image_part, text_part, video_part
from vlm.answering import answer_batch, build_request, settings
from vlm.checkpoints.load import load
from vlm.generation.prefix import PrefixStore

PARTS = {"image": image_part, "video": video_part, "text": text_part}


class BlockDiffusion:
    """A model as VLMEvalKit asks it; `register` gives it VLMEvalKit's own base class.

    Args:
        model: a checkpoint directory or hub id; None is the embedded one. adapter, quantize: see `load`.
        frames: most frames of a video.
        given: settings of decoding: mode, policy, threshold, block_size, denoising_steps, max_new_tokens.
    """

    INTERLEAVE = True
    VIDEO_LLM = True

    def __init__(
        self,
        model: str | None = None,
        adapter: str | None = None,
        quantize: str | None = None,
        frames: int = 16,
        **given: Any,
    ):
        super().__init__()
        self.model, self.processor = load(model, adapter, quantize=quantize)
        self.config = settings(self.model, **given)
        self.frames, self.store = frames, PrefixStore()

    def generate_inner(self, message: Sequence[dict[str, str]], dataset: str | None = None) -> str:
        """The answer to parts in reading order.

        Raises:
            ValueError: a part of another kind, media that cannot be read, or no text.
        """
        messages = messages_of(message)
        request = build_request(self.processor, messages, open_media(messages, self.frames), self.config.seed)
        return answer_batch(self.model, self.processor, [request], self.config, store=self.store)[0].answer


def messages_of(message: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """VLMEvalKit's parts as one message of the user's; ValueError for a part that is neither of the three kinds."""
    for part in message:
        if part["type"] not in PARTS:
            raise ValueError(f"a part of type {part['type']!r} is none of {', '.join(PARTS)}")
    return [{"role": "user", "content": [PARTS[part["type"]](part["value"]) for part in message]}]


def register(name: str, model: str | None = None, **options: Any) -> None:
    """Put a checkpoint into VLMEvalKit's table of models under ``name``; ``options`` as `BlockDiffusion` takes them.

    Raises:
        ValueError: VLMEvalKit is not installed.
    """
    try:
        from vlmeval.config import supported_VLM
        from vlmeval.vlm.base import BaseModel
    except ImportError as error:
        raise ValueError(f"VLMEvalKit is not installed ({error}); see github.com/open-compass/VLMEvalKit") from error
    kind = type("BlockDiffusion", (BlockDiffusion, BaseModel), {})
    supported_VLM[name] = partial(kind, model=model, **options)
