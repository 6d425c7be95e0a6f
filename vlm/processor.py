"""From chat messages to token ids and pixels.

The chat template writes one placeholder per image or video; `encode` expands each to as many tokens as the model gives
features, and marks which tokens the assistant wrote. Media are already PIL images here: decoding files is the caller's
business, so the processor works the same on paths, frames and procedural pictures.

`tokens` needs no pictures, only their sizes: what a conversation will cost is known before anything is decoded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
from PIL import Image
from transformers import BatchFeature, ProcessorMixin

from data_pipelines.media import with_times
from data_pipelines.record import media_parts
from vision_encoders import Picture, Plan, VisionConfig, pixels, plan, views
from vision_encoders.pictures import joined
from vlm.composite import Media
from vlm.layout import answer_spans
from vlm.spelling import spelled


@dataclass
class Encoded:
    """One conversation ready for the model.

    Attributes:
        input_ids: int64 [L], placeholders expanded.
        is_answer: bool [L], True at tokens the assistant wrote, its end of turn included; not in messages with
            ``"loss": False``, which are context.
        images: float32 [N, 3, S, S] pixels of all images, in reading order; where images keep their shapes, a list.
        frames: float32 [F, 3, S, S] pixels of all video frames, in reading order.
        media: its pictures, where the decoder sees them itself; there are then no pixels.
    """

    input_ids: np.ndarray
    is_answer: np.ndarray
    images: np.ndarray | list[Picture]
    frames: np.ndarray
    id: str = ""
    media: Media | None = None


class VLMProcessor(ProcessorMixin):
    """Tokenizer, chat template and pixel preparation of one checkpoint.

    Args:
        tokenizer: a fast tokenizer with ``image_token`` and ``video_token`` among its special tokens.
        vision_config: `vision_encoders.VisionConfig` as a dict.
        tokens_per_image, tokens_per_frame: features the model makes of a square image and of a video frame. How many
            tokens another image has, `image_tokens` says.
    """

    def __init__(
        self,
        tokenizer=None,
        vision_config: dict[str, Any] | None = None,
        tokens_per_image: int = 1,
        tokens_per_frame: int = 1,
        chat_template: str | None = None,
        **kwargs,
    ):
        self.vision_config = vision_config or {}
        self.tokens_per_image = tokens_per_image
        self.tokens_per_frame = tokens_per_frame
        super().__init__(tokenizer, chat_template=chat_template)
        self.image_token_id = tokenizer.convert_tokens_to_ids(tokenizer.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(tokenizer.video_token)

    @property
    def vision(self) -> VisionConfig:
        if not self.vision_config:
            raise ValueError("this model has no vision encoder: it reads text only")
        return VisionConfig.from_dict(self.vision_config)

    def pixels(self, images: list) -> np.ndarray:
        """PIL images to float32 [N, 3, S, S], a square each; an empty list gives N = 0."""
        if not self.vision_config and not len(images):
            return np.zeros((0, 3, 0, 0), np.float32)
        return pixels(images, self.vision)

    def plan(self, size: tuple[int, int]) -> Plan:
        """What becomes of an image of this (width, height)."""
        return plan(size, self.vision, isqrt(self.tokens_per_image))

    def image_tokens(self, size: tuple[int, int]) -> int:
        """Tokens of an image of this (width, height)."""
        return self.plan(size).tokens

    def images(self, images: list) -> np.ndarray | list[Picture]:
        """PIL images to what `Encoded.images` holds."""
        if not self.vision_config or self.vision.fit in ("squash", "pad"):
            return self.pixels(images)
        plans = [self.plan(image.size) for image in images]
        return [Picture(views(image, plan, self.vision), plan) for image, plan in zip(images, plans)]

    def encode(self, messages: list[dict], media: list, add_generation_prompt: bool = False) -> Encoded:
        """Tokens and pixels of one conversation.

        Args:
            messages: HF chat messages. A video part with ``"timed": True`` has each frame's time before the frame, an
                answer with ``"spelled": True`` a token for each character.
            media: what each image part (a PIL image) and video part (a list of PIL frames) holds, in reading order.
            add_generation_prompt: end with the assistant's header, ready to answer.

        Raises:
            ValueError: if a text contains a reserved token, placeholders and media differ in number, or it is not
                clear which tokens are those of a message that is spelled or has ``"loss": False``.
        """
        messages, media = with_times(messages, media)
        ids, answer, videos = self._expanded_chat(messages, [_size_of(item) for item in media], add_generation_prompt)
        images = [item for item, is_video in zip(media, videos) if not is_video]
        frames = [frame for item, is_video in zip(media, videos) if is_video for frame in item]
        return Encoded(ids, answer, self.images(images), self.pixels(frames))

    def tokens(
        self, messages: list[dict], sizes: Sequence[tuple[int, int] | int], add_generation_prompt: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """``input_ids`` and ``is_answer`` [L] of `encode`, without its pixels and before there are any.

        Args:
            sizes: (width, height) of every image, upright, and the number of frames of every video, in reading order.

        Raises:
            ValueError: as `encode`.
        """
        if any(part.get("timed") for part in media_parts(messages)):
            raise ValueError("how many tokens the times of a timed video take is known with its frames only")
        ids, answer, _ = self._expanded_chat(messages, sizes, add_generation_prompt)
        return ids, answer

    def _expanded_chat(self, messages, sizes, add_generation_prompt) -> tuple[np.ndarray, np.ndarray, list[bool]]:
        """Ids [L], answer marks [L], and which of the media are videos."""
        refuse_reserved(self.tokenizer, messages)
        if not (self.chat_template or self.tokenizer.chat_template):
            raise ValueError("the model has no chat template, by which a conversation is written")
        chat = self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.chat_template or self.tokenizer.chat_template,
            add_generation_prompt=add_generation_prompt,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ids = np.array(chat["input_ids"])
        ids, answer = spelled(self.tokenizer, messages, ids, np.array(chat["assistant_masks"], dtype=bool))
        answer = learnt(messages, answer)
        placeholders = np.flatnonzero((ids == self.image_token_id) | (ids == self.video_token_id))
        if len(placeholders) != len(sizes):
            raise ValueError(f"{len(placeholders)} media placeholders in the chat but {len(sizes)} media given")
        videos = (ids[placeholders] == self.video_token_id).tolist()
        repeats = np.ones(len(ids), dtype=np.int64)
        for at, size, is_video in zip(placeholders, sizes, videos):
            repeats[at] = self.tokens_per_frame * size if is_video else self.image_tokens(size)
        return np.repeat(ids, repeats), np.repeat(answer, repeats), videos

    def __call__(self, images=None, text=None, videos=None, return_tensors=None, **kwargs) -> BatchFeature:
        """Rendered chats to a padded batch: what transformers' `apply_chat_template` calls with ``tokenize=True``.

        Args:
            images: PIL images of all chats in reading order, flat or one list a chat.
            text: one rendered chat or several, a placeholder per image or video.
            videos: likewise, each a sequence of frames.

        Returns:
            ``input_ids`` and ``attention_mask`` [B, L], left-padded; ``pixel_values`` (`vision_encoders.Pictures`
            where images keep their shapes) and ``pixel_values_videos``.
        """
        texts = [text] if isinstance(text, str) else list(text)
        pictures = [to_image(picture) for picture in _flat(images, _is_picture)]
        clips = [list(clip) for clip in _flat(videos, _is_clip)]
        repeats = {
            self.image_token_id: iter([self.image_tokens(picture.size) for picture in pictures]),
            self.video_token_id: iter([self.tokens_per_frame * len(clip) for clip in clips]),
        }
        try:
            rows = [self._expanded(self.tokenizer(text)["input_ids"], repeats) for text in texts]
        except StopIteration:
            message = f"more placeholders than media: {len(pictures)} images, {len(clips)} videos"
            raise ValueError(message) from None
        if any(True for left in repeats.values() for _ in left):
            raise ValueError(f"fewer placeholders than media: {len(pictures)} images, {len(clips)} videos")
        batch = self.tokenizer.pad({"input_ids": rows}, padding_side="left")
        frames, shown = [to_image(frame) for clip in clips for frame in clip], self.images(pictures)
        for name, items in (("pixel_values", shown), ("pixel_values_videos", self.pixels(frames))):
            if isinstance(items, np.ndarray) and len(items):
                batch[name] = items
        features = BatchFeature(dict(batch), tensor_type=return_tensors)
        if isinstance(shown, list) and shown:
            features["pixel_values"] = joined([shown])  # of different shapes: not a tensor
        return features

    @staticmethod
    def _expanded(ids: list[int], repeats: dict) -> list[int]:
        """Every placeholder as often as its medium has features."""
        out: list[int] = []
        for token in ids:
            out += [token] * (next(repeats[token]) if token in repeats else 1)
        return out

    def decode(self, ids, **kwargs) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, **kwargs)


def learnt(messages: list[dict], answer: np.ndarray) -> np.ndarray:
    """``answer`` [L] without the assistant's messages that say ``"loss": False``."""
    kinds = [message.get("loss") is not False for message in messages if message["role"] == "assistant"]
    if all(kinds):
        return answer
    spans, kept = answer_spans(answer), answer.copy()
    if len(spans) != len(kinds):
        raise ValueError(f"{len(spans)} answers in the rendered chat for {len(kinds)} messages, some without loss")
    for start, end in (span for span, wanted in zip(spans, kinds) if not wanted):
        kept[start:end] = False
    return kept


def refuse_reserved(tokenizer, messages: list[dict]) -> None:
    """ValueError if a text holds a token that only the chat template may write."""
    # Not `all_special_tokens`, which has no roles: a text could then open a turn of its own.
    reserved = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    for message in messages:
        for text in texts_of(message):
            for token in reserved:
                if token in text:
                    raise ValueError(f"the text contains the reserved token {token!r}")


def texts_of(message: dict) -> list[str]:
    """The texts of a chat message, whose content is one string or a list of parts."""
    content = message["content"]
    return [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]


def to_image(picture) -> Image.Image:
    """A PIL image of a picture that transformers may have turned into an array [H, W, 3] or [3, H, W]."""
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    array = np.asarray(picture)
    return Image.fromarray(array.transpose(1, 2, 0) if array.shape[0] == 3 else array)


def _size_of(item) -> tuple[int, int] | int:
    """(width, height) of an image, the number of frames of a video."""
    return len(item) if isinstance(item, list | tuple) else item.size


def _flat(media, is_item) -> list:
    """One flat list of media that come as one list, or as one list a chat."""
    return [item for entry in media or [] for item in ([entry] if is_item(entry) else entry)]


def _is_picture(entry) -> bool:
    return not isinstance(entry, list | tuple)


def _is_clip(entry) -> bool:
    """Frames in a list, or in one array [T, H, W, 3]; a chat's list of clips is neither."""
    return not isinstance(entry, list | tuple) or (len(entry) > 0 and _is_picture(entry[0]) and np.ndim(entry[0]) != 4)
