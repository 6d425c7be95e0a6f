"""Open everything a conversation shows, in reading order.

A video part says itself how its frames are chosen; everything but ``video`` may be left out:

    {"type": "video", "video": "v.mp4", "fps": 1, "start": 2.5, "end": 60, "max_frames": 32, "timed": true}

Its settings are those of `data_pipelines.sampling.Sampling`. With ``timed`` the prompt tells when each frame is shown.

The deciding choice: a timed video becomes its frames one by one, each a video of one frame behind a text. So there is
one kind of placeholder for frames, with or without times, and the processor knows nothing of them.
"""

from collections.abc import Callable
from typing import Any

from PIL import Image

from data_pipelines.cache import MediaCache
from data_pipelines.errors import DataError
from data_pipelines.images import load_image
from data_pipelines.record import Message, media_parts, text_part, video_part
from data_pipelines.sampling import Sampling, SamplingError, labels, sampling_of, settings
from data_pipelines.video import Clip, load_clip, video_name


def open_media(
    messages: list[Message], frames: int = 16, sampling: Sampling | None = None, cache: MediaCache | None = None
) -> list[Image.Image | Clip]:
    """An RGB image for every image part, a `Clip` for every video part.

    Args:
        frames: the most frames of a video whose part does not say.
        sampling: all that such a part does not say; ``frames`` is then not looked at.
        cache: where decoded media are kept.

    Raises:
        DataError: one line naming the file that cannot be used.
    """
    default = Sampling(max_frames=frames) if sampling is None else sampling
    kinds = {"image": _image, "video": _video}
    return [kinds[part["type"]](part, default, cache) for part in media_parts(messages)]


def video_settings(part: dict[str, Any]) -> dict[str, Any]:
    """What a video part says beside its video: its sampling, and ``timed``. Raises SamplingError."""
    if not isinstance(part.get("timed") or False, bool):
        raise SamplingError(f"timed must be true or false, not {part['timed']!r}")
    return {**settings(part), **({"timed": True} if part.get("timed") else {})}


def sampling_for(part: dict[str, Any], default: Sampling) -> Sampling:
    """How a video part's frames are chosen. Raises DataError, naming the video."""
    try:
        video_settings(part)
        return sampling_of(part, default)
    except SamplingError as error:
        raise DataError(f"{video_name(part['video'])}: {error}") from error


def with_times(messages: list[Message], media: list) -> tuple[list[Message], list]:
    """The conversation with every timed video as its frames, each behind its time; everything else as it is."""
    parts = media_parts(messages)
    if len(parts) != len(media) or not any(part.get("timed") for part in parts):
        return messages, media
    left, told = iter(media), []
    turns = [
        {**m, "content": [p for part in m["content"] for p in _told(part, left, told)]}
        if isinstance(m["content"], list)
        else m
        for m in messages
    ]
    return turns, told


def _told(part: dict[str, Any], left: Any, told: list) -> list[dict[str, Any]]:
    """The parts that take the place of one; their media go from ``left`` to ``told``."""
    if part["type"] not in ("image", "video"):
        return [part]
    item = next(left)
    if not part.get("timed"):
        told.append(item)
        return [part]
    told += [[frame] for frame in item]
    return [p for label, frame in zip(labels(item.times), item) for p in (text_part(f"{label} "), video_part([frame]))]


def _image(part: dict[str, Any], default: Sampling, cache: MediaCache | None) -> Image.Image:
    image = part["image"]
    return _kept(cache, image, "image", lambda: Clip([load_image(image)]))[0]


def _video(part: dict[str, Any], default: Sampling, cache: MediaCache | None) -> Clip:
    video = part["video"]
    if isinstance(video, Clip):  # opened before
        return video
    sampling = sampling_for(part, default)
    clip = _kept(cache, video, repr(sampling), lambda: load_clip(video, sampling))
    if part.get("timed") and clip.times is None:
        raise DataError(f"{video_name(video)}: timed needs raw_fps: pictures have no times of their own")
    return clip


def _kept(cache: MediaCache | None, source: Any, how: str, load: Callable[[], Clip]) -> Clip:
    return load() if cache is None else cache.clip(source, how, load)
