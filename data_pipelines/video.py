"""Clips as a few RGB frames: files, animations, directories of pictures, lists of frames.

The rule of choice: a clip of T frames is cut into N equal intervals and the frame at each one's centre is taken,
``floor((k + 1/2) * T / N)``; a clip of N frames or fewer gives each frame once, in order.

decord reads first, PyAV when decord fails. The deciding exception: decord is asked only about MP4/MOV and
Matroska/WebM. From other containers (MPEG-TS, MPEG-PS, H.264 in AVI) it returns wrong frames without an error.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.images import MAX_PIXELS, check_file, load_image, open_image, quiet_pillow, shown, to_rgb

logger = logging.getLogger(__name__)

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
DECORD_CONTAINERS = ("mov", "matroska")  # first names of the demuxers whose frame index decord follows exactly

# (path, wanted indices) -> (those frames, how many sound frames there are, whether any were lost on the way)
Decode = Callable[[Path, list[int]], tuple[list[Image.Image], int, bool]]


def load_video(source: str | Path | Sequence[str | Path | Image.Image], frames: int = 8) -> list[Image.Image]:
    """At most ``frames`` uniformly spread RGB frames of a clip, upright and in order.

    Args:
        source: a video file; an animated GIF, WebP or PNG; a directory of pictures (in natural order of their
            names); or a list of pictures, which are its frames.
        frames: how many to take, at least 1; a shorter clip gives fewer.

    A damaged clip gives the frames that can be decoded, and one warning on this module's logger.

    Raises:
        DataError: nothing there, no pictures, no video stream, or not one frame that can be decoded.
    """
    if frames < 1:
        raise DataError(f"the number of video frames must be at least 1, not {frames}")
    if not isinstance(source, (str, Path)):
        return _from_pictures(source, frames, "the list of video frames")
    if os.path.isdir(source):  # unlike Path.is_dir, no error for an impossible name
        return _from_pictures(_pictures_in(Path(source)), frames, shown(source))
    return _from_file(check_file(source), frames)


def centres(total: int, frames: int) -> list[int]:
    """Indices of the centres of ``frames`` equal intervals of ``total`` frames; all of them if there are fewer."""
    if total <= frames:
        return list(range(total))
    return [(2 * k + 1) * total // (2 * frames) for k in range(frames)]


def _from_pictures(pictures: Sequence[str | Path | Image.Image], frames: int, name: str) -> list[Image.Image]:
    if not pictures:
        raise DataError(f"{name}: holds no pictures")
    return [load_image(pictures[i]) for i in centres(len(pictures), frames)]


def _pictures_in(folder: Path) -> list[Path]:
    """The folder's pictures, frame2 before frame10; hidden files are not frames."""
    try:
        paths = [p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{shown(folder)}: cannot be opened ({error.strerror})") from error
    return sorted(paths, key=_natural)


def _natural(path: Path) -> tuple[list[str | int], str]:
    pieces = re.split(r"(\d+)", path.name.lower())
    return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)], path.name


def _from_file(path: Path, frames: int) -> list[Image.Image]:
    if _is_animation(path):
        with quiet_pillow(), open_image(path) as image:
            expected = _frames_claimed(image)
        return _sound_frames(_decode_pillow, path, frames, expected)
    container, expected = _probe(path)
    if container in DECORD_CONTAINERS:
        try:
            return _decord_frames(path, frames, expected)
        except Exception as error:  # not installed here, a codec it lacks, a rotation, a damaged file: PyAV decides
            logger.debug("%s: decord failed (%s)", path, type(error).__name__)
    return _sound_frames(_decode_pyav, path, frames, expected)


def _is_animation(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(12)
    return head.startswith((b"GIF8", b"\x89PNG")) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


def _frames_claimed(image: Image.Image) -> int:
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # cut off before the frames could be counted
        return 1


def _probe(path: Path) -> tuple[str, int]:
    """The container's first name and the number of frames its header claims (0 if it does not say)."""
    try:
        with _opened(path) as container:
            stream = _video_stream(container)
            if stream is None:
                raise DataError(f"{shown(path)}: has no video stream")
            if stream.width * stream.height > MAX_PIXELS:
                raise DataError(f"{shown(path)}: the header claims frames of {stream.width}x{stream.height} pixels")
            return container.format.name.split(",")[0], stream.frames
    except DataError:
        raise
    except Exception as error:  # FFmpeg's own errors, and whatever PyAV meets in damaged headers
        raise DataError(f"{shown(path)}: not a video that can be read") from error


def _opened(path: Path) -> Any:
    """PyAV's container. The prefix keeps a colon in a name from being read as a protocol."""
    import av

    return av.open(f"file:{path}", metadata_errors="replace")


def _video_stream(container: Any) -> Any:
    """The first moving picture: a cover picture inside an audio file is not one, nor is text drawn as video."""
    from av.stream import Disposition

    moving = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
    return next((s for s in moving if s.codec_context.name != "ansi"), None)


def _decord_frames(path: Path, frames: int, expected: int) -> list[Image.Image]:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    # fault_tol=1: raise when frames had to be made up from their neighbours
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), fault_tol=1)
    if len(reader) < expected:  # cut off at the end of a packet, which decord does not mind
        raise DataError(f"{shown(path)}: {len(reader)} of {expected} frames")
    batch = reader.get_batch(centres(len(reader), frames)).asnumpy()  # [frames, H, W, 3] uint8
    return [Image.fromarray(frame) for frame in batch]


def _sound_frames(decode: Decode, path: Path, frames: int, expected: int) -> list[Image.Image]:
    """Uniform frames of what can be decoded: one pass if the header's count is true, a second if it is not."""
    try:
        images, decoded, lost = decode(path, centres(expected, frames))
        if decoded != expected:
            images, _, _ = decode(path, centres(decoded, frames))
    except Exception as error:  # a pixel format or a size that cannot be made into a picture
        raise DataError(f"{shown(path)}: its video frames cannot be decoded ({type(error).__name__})") from error
    if not images:
        raise DataError(f"{shown(path)}: not one video frame can be decoded")
    if lost or decoded < expected:
        logger.warning("%s: damaged or cut off; using the %d frames that can be decoded", shown(path), decoded)
    return images


def _decode_pyav(path: Path, wanted: list[int]) -> tuple[list[Image.Image], int, bool]:
    kept, decoded, lost = [], 0, False
    with _opened(path) as container:
        for frame in _pyav_frames(container):
            if frame is None or frame.is_corrupt:
                lost = True
                continue
            if decoded in wanted:
                kept.append(_upright(frame))
            decoded += 1
    return kept, decoded, lost


def _pyav_frames(container: Any) -> Iterator[Any]:
    """Frames in the order they are shown; None where a packet cannot be read or decoded."""
    import av

    stream = _video_stream(container)
    stream.thread_type = "NONE"  # with frame threads the marks of damaged frames vary from run to run
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.FFmpegError:  # the file ends where it should not
            yield None
            return
        try:
            yield from packet.decode()
        except av.FFmpegError:
            yield None


def _upright(frame: Any) -> Image.Image:
    """The frame as RGB, turned by its display matrix to the nearest quarter turn (both count counter-clockwise)."""
    return frame.to_image().rotate(90 * round(frame.rotation / 90), expand=True)


def _decode_pillow(path: Path, wanted: list[int]) -> tuple[list[Image.Image], int, bool]:
    kept, decoded = [], 0
    with quiet_pillow(), open_image(path) as image:
        for index in range(_frames_claimed(image)):
            try:
                image.seek(index)
                frame = to_rgb(image)
            except Exception:  # the file ends inside this frame
                return kept, decoded, True
            if index in wanted:
                kept.append(frame)
            decoded += 1
    return kept, decoded, False
