"""This package's models inside VLMEvalKit, which has no plugins: a model class, and its entry in VLMEvalKit's table.

    python -m eval.vlmevalkit VLMEvalKit/run.py --data MMBench_DEV_EN --model my-model=runs/demo/final
    python -m eval.vlmevalkit VLMEvalKit/run.py --data chairs --model my-model=embedded    # $LMUData/chairs.tsv

runs a checked-out VLMEvalKit's own ``run.py`` with all that follows it, after ``NAME=CHECKPOINT`` has been entered
into the table as NAME; `register` does that alone. Data sets that VLMEvalKit does not know lie at
``$LMUData/NAME.tsv``; with columns A and B they are multiple choice and scored without a judge (``--judge
exact_matching``).

VLMEvalKit hands over a list of parts, ``{"type": "image" | "text" | "video", "value": a path or a text}``. The
deciding choice: nothing of VLMEvalKit is imported until its table is written to, and its class is one only then; what
an answer is made of can be used, and tested, without it.
"""

import runpy
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
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


def main(argv: list[str] | None = None) -> int:
    """Run VLMEvalKit's ``run.py`` with checkpoints in its table; 2 for a mistake, told in one line."""
    script, *options = [*(sys.argv[1:] if argv is None else argv)] or [""]
    try:
        if not Path(script).is_file():
            raise ValueError(f"{script or 'no script given'}: give the run.py of a checked-out VLMEvalKit first")
        sys.path.insert(0, str(Path(script).resolve().parent))
        sys.argv = [script, *map(_entered, options)]
    except ValueError as error:
        print("error:", error, file=sys.stderr)
        return 2
    runpy.run_path(script, run_name="__main__")
    return 0


def _entered(option: str) -> str:
    """The option; of ``NAME=CHECKPOINT`` the name alone, once the checkpoint is in the table."""
    name, equals, model = option.partition("=")
    if not equals or option.startswith("-"):
        return option
    register(name, None if model == "embedded" else model)
    return name


if __name__ == "__main__":
    sys.exit(main())
