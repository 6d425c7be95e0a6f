"""Clips as a few RGB frames and their times: files, animations, directories of pictures, lists of frames.

Which frames is `data_pipelines.sampling`'s business, getting them out of a file `data_pipelines.decoders`'. Here they
meet: decord reads first, PyAV when decord fails; what is sound of a damaged file is used, and the rest is reported.

The deciding choice: the rule is applied to the frames that can be decoded. A file that is cut off is sampled as if
what is left were all there ever was.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.decoders import (
    INDEXED,
    Decode,
    Header,
    is_animation,
    natural,
    open_decord,
    open_pillow,
    open_pyav,
    probe,
)
from data_pipelines.errors import DataError
from data_pipelines.images import check_file, load_image, shown
from data_pipelines.sampling import Sampling, SamplingError, choose, scenes

logger = logging.getLogger(__name__)

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
GREY = (32, 18)  # pixels of the pictures whose differences tell scenes apart
TRIES = 3  # readings of a file whose sound frames turn out to be others than it seemed

VideoSource = str | Path | Sequence[str | Path | Image.Image]


class Clip(list):
    """RGB frames in order.

    Attributes:
        times: seconds from the video's first frame to each of these; None for pictures without times.
    """

    def __init__(self, frames: Iterable[Image.Image] = (), times: Sequence[float] | None = None):
        super().__init__(frames)
        self.times = None if times is None else list(times)


def load_video(source: VideoSource, frames: int = 8) -> Clip:
    """At most ``frames`` uniformly spread frames of a clip; otherwise as `load_clip`."""
    return load_clip(source, {"max_frames": frames})


def load_clip(source: VideoSource, sampling: Sampling | dict) -> Clip:
    """The frames of a clip that ``sampling`` chooses, upright, in order, and no larger than it allows.

    Args:
        source: a video file; an animated GIF, WebP or PNG; a directory of pictures (in natural order of their
            names); or a list of pictures, which are its frames.
        sampling: or its settings, as a dictionary.

    A damaged clip gives the frames that can be decoded, and one warning on this module's logger.

    Raises:
        DataError: nothing there, no pictures, no video stream, not one frame that can be decoded, or a sampling that
            is out of range or asks for what the clip does not have.
    """
    try:
        sampling = sampling if isinstance(sampling, Sampling) else Sampling(**sampling)
        return _load(source, sampling)
    except SamplingError as error:
        raise DataError(f"{video_name(source)}: {error}") from error


def video_name(source: VideoSource) -> str:
    """What an error calls a clip."""
    return shown(source) if isinstance(source, (str, Path)) else "the list of video frames"


def pictures_in(folder: Path) -> list[Path]:
    """The folder's pictures, frame2 before frame10; hidden files are not frames."""
    try:
        paths = [p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{shown(folder)}: cannot be opened ({error.strerror})") from error
    return sorted(paths, key=natural)


def picture_times(pictures: Sequence[str | Path | Image.Image], sampling: Sampling, name: str) -> list[float]:
    """When each picture of a folder or list is shown; their numbers if nobody asks. Raises DataError."""
    if not pictures:
        raise DataError(f"{name}: holds no pictures")
    if sampling.raw_fps is None and sampling.by_time is not None:
        raise DataError(f"{name}: {sampling.by_time} needs raw_fps: pictures have no times of their own")
    return [index / (sampling.raw_fps or 1.0) for index in range(len(pictures))]


def _load(source: VideoSource, sampling: Sampling) -> Clip:
    if not isinstance(source, (str, Path)):
        return _from_pictures(source, sampling, video_name(source))
    if os.path.isdir(source):  # unlike Path.is_dir, no error for an impossible name
        return _from_pictures(pictures_in(Path(source)), sampling, shown(source))
    return _from_file(check_file(source), sampling)


def _from_pictures(pictures: Sequence[str | Path | Image.Image], sampling: Sampling, name: str) -> Clip:
    times = picture_times(pictures, sampling, name)
    wanted = choose(times, sampling)
    if sampling.scenes:
        wanted = _by_scenes(wanted, [small_grey(load_image(pictures[i])) for i in wanted], sampling)
    frames = [shrunk(load_image(pictures[i]), sampling.max_pixels) for i in wanted]
    return Clip(frames, [times[i] for i in wanted] if sampling.raw_fps else None)


def _from_file(path: Path, sampling: Sampling) -> Clip:
    if is_animation(path):
        guessed, decode = open_pillow(path)
        times = guessed if sampling.by_time is None else []  # to be read first
        return _sampled(path, times, decode, sampling, len(guessed))
    header = probe(path)
    if header.container in INDEXED:
        try:
            times, decode = open_decord(path, header)
            return _sampled(path, times, decode, sampling, header.frames)
        except SamplingError:
            raise
        except Exception as error:  # not installed here, a codec it lacks, a rotation, a damaged file: PyAV decides
            logger.debug("%s: decord failed (%s)", path, type(error).__name__)
    return _by_pyav(path, header, sampling)


def _by_pyav(path: Path, header: Header, sampling: Sampling) -> Clip:
    try:
        times, decode = open_pyav(path, header)
        return _sampled(path, times, decode, sampling, header.frames, header.cut)
    except (DataError, SamplingError):
        raise
    except Exception as error:  # a pixel format or a size that cannot be made into a picture
        raise DataError(f"{shown(path)}: its video frames cannot be decoded ({type(error).__name__})") from error


def _sampled(
    path: Path, times: list[float], decode: Decode, sampling: Sampling, claimed: int, lost: bool = False
) -> Clip:
    """The chosen frames of what can be decoded; read anew as often as less turns out to be sound than it seemed.

    Args:
        times: of the frames that the file seems to hold; none if only decoding can tell.
        claimed: frames that its header claims.
        lost: whether it is known before that some are not there.
    """

    def fit(frame: Image.Image) -> Image.Image:
        return shrunk(frame, sampling.max_pixels)

    for _ in range(TRIES):
        wanted = _chosen(times, sampling, claimed, lost)
        kept, sound, lost = decode(wanted, small_grey if sampling.scenes else fit)
        if not sound:
            raise DataError(f"{shown(path)}: not one video frame can be decoded")
        times = sound
        if wanted == _chosen(times, sampling, claimed, lost):
            break
    else:
        raise DataError(f"{shown(path)}: its frames differ from one reading to the next")
    if sampling.scenes:
        wanted = _by_scenes(wanted, kept, sampling)
        kept, _, _ = decode(wanted, fit)
    if lost or len(times) < claimed:
        _report(path, len(times), claimed)
    return Clip(kept, [times[i] for i in wanted])


def _chosen(times: list[float], sampling: Sampling, claimed: int, lost: bool) -> list[int]:
    return choose(times, sampling, cut_off=lost or len(times) < claimed) if times else []


def _report(path: Path, sound: int, claimed: int) -> None:
    lost = f"{claimed - sound} of {claimed} frames" if claimed > sound else "some frames"
    logger.warning(
        "%s: damaged or cut off: %s lost; using the %d frames that can be decoded", shown(path), lost, sound
    )


def _by_scenes(looked_at: list[int], greys: list[np.ndarray], sampling: Sampling) -> list[int]:
    changes = np.array([np.abs(a - b).mean() for a, b in zip(greys, greys[1:])])  # [T - 1]
    return [looked_at[i] for i in scenes(changes, sampling.max_frames)]


def small_grey(frame: Image.Image) -> np.ndarray:
    """float32 [h, w], grey levels."""
    return np.asarray(frame.convert("L").resize(GREY, Image.Resampling.BOX), dtype=np.float32)


def shrunk(frame: Image.Image, max_pixels: int) -> Image.Image:
    """The frame, in its own shape, at no more than ``max_pixels``."""
    pixels = frame.width * frame.height
    if pixels <= max_pixels:
        return frame
    scale = (max_pixels / pixels) ** 0.5
    width = min(max(1, int(frame.width * scale)), max_pixels)
    height = min(max(1, int(frame.height * scale)), max_pixels // width)
    return frame.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
