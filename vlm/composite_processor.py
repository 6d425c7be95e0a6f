"""The processor of a converted vision-language model: the original one, asked by the names that ours has.

Its chat template, its preparation of pixels and its expansion of placeholders are what the model was trained on, so
they are kept, in a directory of their own beside our tokenizer. What stock templates do not say is which tokens the
assistant wrote: that is told by writing the conversation up to each answer and up to its end.
"""

from os.path import commonprefix
from pathlib import Path

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image
from transformers import AutoProcessor, PreTrainedTokenizerFast, ProcessorMixin

from data_pipelines.record import media_parts
from vlm.composite import Media, family_of, kept
from vlm.config import VLMConfig
from vlm.processor import Encoded, VLMProcessor, learnt, refuse_reserved

ORIGINAL = "original"  # its directory, beside ours
TICKS = 1000  # a second in the metadata of videos, whose frames are chosen before the processor sees them


def original_processor(directory: str) -> ProcessorMixin:
    """transformers' processor of a directory.

    Raises:
        OSError, ValueError: there is none, or it needs a package that is not here.
    """
    try:
        found = AutoProcessor.from_pretrained(directory, trust_remote_code=False)
    except ImportError as error:
        raise ValueError(" ".join(str(error).split())) from error
    if not isinstance(found, ProcessorMixin):  # transformers falls back to a tokenizer
        raise ValueError(f"{directory} has no processor of pictures")
    return found


class CompositeProcessor:
    """Tokenizer, chat template and pixel preparation of a checkpoint whose decoder sees pictures itself.

    Args:
        tokenizer: ours, which knows the mask.
        original: transformers' own processor.
        config: the model's `VLMConfig`: which family it is of, and its placeholders.
    """

    vision_config: dict = {}

    def __init__(self, tokenizer: PreTrainedTokenizerFast, original: ProcessorMixin, config: VLMConfig):
        self.tokenizer, self.original, self.family = tokenizer, original, family_of(config)
        self.image_token_id, self.video_token_id = config.image_token_id, config.video_token_id

    @property
    def chat_template(self) -> str | None:
        return self.original.chat_template or self.original.tokenizer.chat_template

    @classmethod
    def from_pretrained(cls, directory: str, config: VLMConfig) -> "CompositeProcessor":
        """Read what `save_pretrained` wrote."""
        original = original_processor(str(Path(directory) / ORIGINAL))
        return cls(PreTrainedTokenizerFast.from_pretrained(directory), original, config)

    def save_pretrained(self, directory: str | Path, **kwargs) -> None:
        self.tokenizer.save_pretrained(directory)
        self.original.save_pretrained(Path(directory) / ORIGINAL)

    def encode(self, messages: list[dict], media: list, add_generation_prompt: bool = False) -> Encoded:
        """Tokens and pictures of one conversation; otherwise as `VLMProcessor.encode`.

        Raises:
            ValueError: a text contains a reserved token, placeholders and media differ in number, or template or
                processor refuse.
        """
        refuse_reserved(self.tokenizer, messages)
        parts = media_parts(messages)
        if len(parts) != len(media):
            raise ValueError(f"{len(parts)} media placeholders in the chat but {len(media)} media given")
        if any(part.get("timed") for part in parts):
            raise ValueError("a video's times are the business of this model's own processor: leave --timestamps out")
        text = self._written(messages, add_generation_prompt)
        answers = self._answers(messages, text)
        where = {"return_offsets_mapping": True, "return_text_replacement_offsets": True} if answers else {}
        try:
            found = self.original(text=[text], return_tensors="pt", **where, **self._arguments(text, media))
        except (TypeError, KeyError, IndexError, AttributeError) as error:  # of a processor without, say, videos
            raise ValueError(f"the model's processor refuses the conversation ({error})") from error
        inputs, ids = kept(found, self.family), found["input_ids"][0].numpy()
        answer = _marked(found, answers) if answers else np.zeros(len(ids), dtype=bool)
        empty = np.zeros((0, 3, 0, 0), np.float32)
        return Encoded(ids, learnt(messages, answer), empty, empty, media=Media(inputs) if media else None)

    def tokens(
        self, messages: list[dict], sizes: list, add_generation_prompt: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """``input_ids`` and ``is_answer`` [L] of `encode` from the (width, height) of every image: with black ones.

        Raises:
            ValueError: as `encode`, and for videos, whose tokens are known with their frames only.
        """
        if not all(isinstance(size, list | tuple) for size in sizes):
            raise ValueError("how many tokens a video has is known with its frames only")
        encoded = self.encode(messages, [Image.new("RGB", tuple(size)) for size in sizes], add_generation_prompt)
        return encoded.input_ids, encoded.is_answer

    def decode(self, ids, **kwargs) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, **kwargs)

    def _arguments(self, text: str, media: list) -> dict:
        """Of the original processor, beside the text."""
        images = [item for item in media if not isinstance(item, list | tuple)]
        videos = [item for item in media if isinstance(item, list | tuple)]
        if videos and getattr(self.original, "video_processor", None) is None:
            raise ValueError("this model takes images only, no videos")
        if images and videos and not self.family.mixed:
            raise ValueError("this model's processor takes images or videos, not both in one conversation")
        bos = self.original.tokenizer.bos_token
        given = {"add_special_tokens": not (bos and text.startswith(bos))}
        if images:
            given["images"] = [[image.convert("RGB") for image in images]]
        if videos:
            given["videos"] = [np.stack([np.asarray(frame.convert("RGB")) for frame in clip]) for clip in videos]
            given |= {"video_metadata": [_metadata(clip) for clip in videos], "do_sample_frames": False}
        return given

    def _written(self, messages: list[dict], add_generation_prompt: bool) -> str:
        """The conversation as the original's chat template writes it, a placeholder for every picture."""
        if self.chat_template is None:
            raise ValueError("the model's processor has no chat template")
        plain = [{"role": message["role"], "content": _parts(message["content"])} for message in messages]
        ours = None if self.original.chat_template else self.chat_template
        try:
            return self.original.apply_chat_template(
                plain, chat_template=ours, add_generation_prompt=add_generation_prompt, tokenize=False
            )
        except TemplateError as error:
            raise ValueError(f"the model's chat template refuses the conversation ({error})") from error

    def _answers(self, messages: list[dict], text: str) -> list[tuple[int, int]]:
        """(start, end) of every answer in the written conversation, its end of turn included."""
        spans = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            start = len(commonprefix([self._written(messages[:number], True), text]))
            until = self._written(messages[: number + 1], False).rstrip()
            if not text.startswith(until) or len(until) <= start:
                raise ValueError("the model's chat template does not show which tokens an earlier answer has")
            spans.append((start, len(until)))
        return spans


def processor_of(directory: str, config: VLMConfig) -> VLMProcessor | CompositeProcessor:
    """The processor of a checkpoint of ours, of the kind that its config says."""
    if config.composite_config is None:
        return VLMProcessor.from_pretrained(directory)
    return CompositeProcessor.from_pretrained(directory, config)


def _parts(content) -> list[dict]:
    """A message's content as stock templates take it: texts, and media without what they hold."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [part if part["type"] == "text" else {"type": part["type"]} for part in content]


def _metadata(clip: list) -> dict:
    """What a processor asks of a video whose frames are chosen: when each is shown, and how dense they are."""
    times = getattr(clip, "times", None)
    if times is None or len(times) < 2 or times[-1] <= times[0]:
        return {"total_num_frames": len(clip), "fps": None, "frames_indices": list(range(len(clip)))}
    step = (times[-1] - times[0]) / (len(times) - 1)
    total = max(1, round(step * len(times) * TICKS))
    indices = [round(time * TICKS) for time in times]
    return {"total_num_frames": total, "fps": TICKS, "duration": total / TICKS, "frames_indices": indices}


def _marked(found, spans: list[tuple[int, int]]) -> np.ndarray:
    """Bool [L], True at the tokens of ``spans``, which count characters before placeholders were expanded."""
    offsets = torch.as_tensor(found["offset_mapping"])[0].numpy()  # [L, 2], in the expanded text
    marked, replaced = np.zeros(len(offsets), dtype=bool), found.get("text_replacement_offsets")
    replaced = replaced[0] if isinstance(replaced, list) and replaced else []  # of texts alone it may be a tensor
    grown = [(one["span"][1], len(one["replacement"]) - len(one["text"])) for one in replaced]
    for span in spans:
        start, end = (at + sum(by for behind, by in grown if behind <= at) for at in span)
        marked |= (offsets[:, 0] >= start) & (offsets[:, 1] <= end) & (offsets[:, 1] > offsets[:, 0])
    return marked
