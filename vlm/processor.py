"""From chat messages to token ids and pixels.

The chat template writes one placeholder per image or video; `encode` expands each to as many tokens as the model gives
features, and marks which tokens the assistant wrote. Media are already PIL images here: decoding files is the caller's
business, so the processor works the same on paths, frames and procedural pictures.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from transformers import BatchFeature, ProcessorMixin

from vision_encoders import VisionConfig, pixels
from vlm.layout import answer_spans


@dataclass
class Encoded:
    """One conversation ready for the model.

    Attributes:
        input_ids: int64 [L], placeholders expanded.
        is_answer: bool [L], True at tokens the assistant wrote, its end of turn included; not in messages with
            ``"loss": False``, which are context.
        images: float32 [N, 3, H, W] pixels of all images, in reading order.
        frames: float32 [F, 3, H, W] pixels of all video frames, in reading order.
    """

    input_ids: np.ndarray
    is_answer: np.ndarray
    images: np.ndarray
    frames: np.ndarray
    id: str = ""


class VLMProcessor(ProcessorMixin):
    """Tokenizer, chat template and pixel preparation of one checkpoint.

    Args:
        tokenizer: a fast tokenizer with ``image_token`` and ``video_token`` among its special tokens.
        vision_config: `vision_encoders.VisionConfig` as a dict.
        tokens_per_image, tokens_per_frame: features the model makes of an image and of a video frame.
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

    def pixels(self, images: list) -> np.ndarray:
        """PIL images to float32 [N, 3, H, W]; an empty list gives N = 0."""
        return pixels(images, VisionConfig.from_dict(self.vision_config))

    def encode(self, messages: list[dict], media: list, add_generation_prompt: bool = False) -> Encoded:
        """Tokens and pixels of one conversation.

        Args:
            messages: HF chat messages.
            media: what each image part (a PIL image) and video part (a list of PIL frames) holds, in reading order.
            add_generation_prompt: end with the assistant's header, ready to answer.

        Raises:
            ValueError: if a text contains a reserved token, placeholders and media differ in number, or it is not
                clear which tokens are those of a message with ``"loss": False``.
        """
        self._refuse_reserved(messages)
        chat = self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.chat_template or self.tokenizer.chat_template,
            add_generation_prompt=add_generation_prompt,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ids = np.array(chat["input_ids"])
        answer = _learnt(messages, np.array(chat["assistant_masks"], dtype=bool))
        placeholders = np.flatnonzero((ids == self.image_token_id) | (ids == self.video_token_id))
        if len(placeholders) != len(media):
            raise ValueError(f"{len(placeholders)} media placeholders in the chat but {len(media)} media given")
        repeats = np.ones(len(ids), dtype=np.int64)
        for at, item in zip(placeholders, media):
            is_video = ids[at] == self.video_token_id
            repeats[at] = self.tokens_per_frame * len(item) if is_video else self.tokens_per_image
        images = [item for at, item in zip(placeholders, media) if ids[at] == self.image_token_id]
        frames = [f for at, item in zip(placeholders, media) if ids[at] == self.video_token_id for f in item]
        return Encoded(np.repeat(ids, repeats), np.repeat(answer, repeats), self.pixels(images), self.pixels(frames))

    def __call__(self, images=None, text=None, videos=None, return_tensors=None, **kwargs) -> BatchFeature:
        """Rendered chats to a padded batch: what transformers' `apply_chat_template` calls with ``tokenize=True``.

        Args:
            images: PIL images of all chats in reading order, flat or one list a chat.
            text: one rendered chat or several, a placeholder per image or video.
            videos: likewise, each a sequence of frames.

        Returns:
            ``input_ids`` and ``attention_mask`` [B, L], left-padded; ``pixel_values`` and ``pixel_values_videos``.
        """
        texts = [text] if isinstance(text, str) else list(text)
        pictures, clips = _flat(images, _is_picture), [list(clip) for clip in _flat(videos, _is_clip)]
        repeats = {
            self.image_token_id: iter([self.tokens_per_image] * len(pictures)),
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
        frames = [to_image(frame) for clip in clips for frame in clip]
        for name, items in (("pixel_values", [to_image(p) for p in pictures]), ("pixel_values_videos", frames)):
            if items:
                batch[name] = self.pixels(items)
        return BatchFeature(dict(batch), tensor_type=return_tensors)

    @staticmethod
    def _expanded(ids: list[int], repeats: dict) -> list[int]:
        """Every placeholder as often as its medium has features."""
        out: list[int] = []
        for token in ids:
            out += [token] * (next(repeats[token]) if token in repeats else 1)
        return out

    def _refuse_reserved(self, messages: list[dict]) -> None:
        # Not `all_special_tokens`, which has no roles: a text could then open a turn of its own.
        reserved = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        for message in messages:
            for text in texts_of(message):
                for token in reserved:
                    if token in text:
                        raise ValueError(f"the text contains the reserved token {token!r}")

    def decode(self, ids, **kwargs) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, **kwargs)


def _learnt(messages: list[dict], answer: np.ndarray) -> np.ndarray:
    """``answer`` [L] without the assistant's messages that say ``"loss": False``."""
    learnt = [message.get("loss") is not False for message in messages if message["role"] == "assistant"]
    if all(learnt):
        return answer
    spans, kept = answer_spans(answer), answer.copy()
    if len(spans) != len(learnt):
        raise ValueError(f"{len(spans)} answers in the rendered chat for {len(learnt)} messages, some without loss")
    for start, end in (span for span, wanted in zip(spans, learnt) if not wanted):
        kept[start:end] = False
    return kept


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


def _flat(media, is_item) -> list:
    """One flat list of media that come as one list, or as one list a chat."""
    return [item for entry in media or [] for item in ([entry] if is_item(entry) else entry)]


def _is_picture(entry) -> bool:
    return not isinstance(entry, list | tuple)


def _is_clip(entry) -> bool:
    """Frames in a list, or in one array [T, H, W, 3]; a chat's list of clips is neither."""
    return not isinstance(entry, list | tuple) or (len(entry) > 0 and _is_picture(entry[0]) and np.ndim(entry[0]) != 4)
