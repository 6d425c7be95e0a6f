"""What media will come to before they are read: sizes of pictures, numbers and times of frames.

A picture's size stands in its header. How many frames a clip gives is `data_pipelines.sampling`'s rule, applied to the
times that its packets announce: nothing is decoded. A clip that turns out damaged gives fewer.

The deciding choice: what only decoding can tell is refused and not guessed. Whoever asks then reads that one sample.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_pipelines.decoders import INDEXED, announced_times, is_animation, open_pillow, probe
from data_pipelines.errors import DataError
from data_pipelines.images import check_file, image_size, shown
from data_pipelines.media import sampling_for, with_times
from data_pipelines.record import Message, media_parts
from data_pipelines.sampling import Sampling, SamplingError, choose
from data_pipelines.video import Clip, VideoSource, picture_times, pictures_in, video_name

REMEMBERED = 2**16  # clips whose frames were counted

Unread = tuple[int, int] | Clip  # (width, height) of a picture; a clip of as many Nones as it will have frames


def unread_media(messages: list[Message], sampling: Sampling) -> list[Unread]:
    """What `data_pipelines.media.open_media` will give, unread.

    Raises:
        DataError: a file that cannot be opened, or a clip of which only decoding tells how many frames it gives.
    """
    return [
        image_size(part["image"]) if part["type"] == "image" else _clip(part, sampling)
        for part in media_parts(messages)
    ]


def told(messages: list[Message], media: list[Unread]) -> tuple[list[Message], list[tuple[int, int] | int]]:
    """Messages and sizes as a token counter takes them: timed videos as their frames, each behind its time."""
    messages, media = with_times(messages, media)
    return messages, [len(item) if isinstance(item, list) else item for item in media]


def unread_clip(source: VideoSource, sampling: Sampling, timed: bool = False) -> Clip:
    """As many Nones as `data_pipelines.video.load_clip` gives frames; their times too if they are ``timed``."""
    if timed and sampling.scenes:
        raise DataError(f"{video_name(source)}: which frames the scenes have is known when they are decoded")
    try:
        if isinstance(source, str | Path) and not os.path.isdir(source):
            path = check_file(source)
            found = path.stat()
            chosen = _of_file(path, sampling, timed, (found.st_size, found.st_mtime_ns))
        else:
            pictures = pictures_in(Path(source)) if isinstance(source, str | Path) else source
            chosen = _chosen(picture_times(pictures, sampling, video_name(source)), sampling)
    except SamplingError as error:
        raise DataError(f"{video_name(source)}: {error}") from error
    return Clip([None] * len(chosen), chosen if timed else None)


def _clip(part: dict[str, Any], default: Sampling) -> Clip:
    video, timed = part["video"], bool(part.get("timed"))
    if isinstance(video, Clip):  # opened before
        return video
    sampling = sampling_for(part, default)
    if timed and sampling.raw_fps is None and not (isinstance(video, str | Path) and os.path.isfile(video)):
        raise DataError(f"{video_name(video)}: timed needs raw_fps: pictures have no times of their own")
    return unread_clip(video, sampling, timed)


@lru_cache(maxsize=REMEMBERED)
def _of_file(path: Path, sampling: Sampling, timed: bool, state: tuple[int, int]) -> tuple[float, ...]:
    """Times of a file's frames; ``state`` is its size and time of change. Only their number counts unless timed."""
    by_number = sampling.by_time is None and not timed
    if is_animation(path):
        if not by_number:
            raise DataError(f"{shown(path)}: an animation's times are known when it is decoded")
        return _chosen(open_pillow(path)[0], sampling)
    header = probe(path)
    if by_number and header.container in INDEXED and header.frames:
        return _chosen([float(number) for number in range(header.frames)], sampling)
    return _chosen(announced_times(path, header), sampling)


def _chosen(times: Sequence[float], sampling: Sampling) -> tuple[float, ...]:
    """Of scenes, only as many as there will be."""
    wanted = choose(times, sampling) if times else []
    return tuple(times[i] for i in wanted[: sampling.max_frames])
