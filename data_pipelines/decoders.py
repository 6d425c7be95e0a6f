"""Three ways into a file that moves: decord, PyAV, Pillow. Each opens it into the times of its frames and a decoder.

``open_…(path)`` gives (times, decode). Times are seconds from the first frame, of all frames that the file seems to
hold. ``decode(wanted, keep)`` gives what ``keep`` makes of the frames at the ascending indices ``wanted``, and the
times of the frames that turned out sound, of which ``wanted`` counts: where they are fewer than it seemed, the caller
chooses anew.

decord is asked only about MP4/MOV and Matroska/WebM. From other containers (MPEG-TS, MPEG-PS, H.264 in AVI) it
returns wrong frames without an error.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.images import MAX_PIXELS, open_image, quiet_pillow, shown, to_rgb

INDEXED = ("mov", "matroska")  # first names of the demuxers whose frame index is true
USUAL_RATE = 25.0  # frames a second where a file does not say
PACKETS = (188, 192, 204)  # bytes of a transport stream's own packets; one that is cut off ends inside one
STILL = 0.1  # seconds of a GIF frame that claims to last none, as browsers show it

Keep = Callable[[Image.Image], Any]
Decode = Callable[[Sequence[int], Keep], tuple[list, list[float], bool]]  # what is kept, sound times, any lost


@dataclass(frozen=True)
class Header:
    """What a video file says of itself.

    Attributes:
        container: first name of its demuxer.
        frames: how many it has; 0 if it does not say.
        times: of its packets' frames; None where decord goes first, which does not need them.
        tells: whether it would show if the file were cut off.
        cut: whether it shows already, by its size.
    """

    container: str
    frames: int
    times: list[float] | None
    tells: bool
    cut: bool = False


def is_animation(path: Path) -> bool:
    """Whether it is Pillow's to read: GIF, WebP, PNG."""
    with path.open("rb") as file:
        head = file.read(12)
    return head.startswith((b"GIF8", b"\x89PNG")) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


def probe(path: Path) -> Header:
    """Raises DataError for a file that is no video, or whose frames would be too large."""
    try:
        with _looked_into(path) as container:
            stream = _video_stream(container)
            if stream is None:
                raise DataError(f"{shown(path)}: has no video stream")
            if stream.width * stream.height > MAX_PIXELS:
                raise DataError(f"{shown(path)}: the header claims frames of {stream.width}x{stream.height} pixels")
            name = container.format.name.split(",")[0]
            # Opening a transport stream takes as long as decoding a second of it: what PyAV will ask is read now.
            times = None if name in INDEXED else _announced(container, stream)
            cut = name == "mpegts" and all(path.stat().st_size % packet for packet in PACKETS)
            tells = name in (*INDEXED, "mpegts") or stream.frames > 0
            return Header(name, stream.frames, times, tells, cut)
    except DataError:
        raise
    except Exception as error:  # FFmpeg's own errors, and whatever PyAV meets in damaged headers
        raise DataError(f"{shown(path)}: not a video that can be read") from error


def open_decord(path: Path, header: Header) -> tuple[list[float], Decode]:
    """Raises whatever decord does, and DataError for a cut-off file, which it does not mind."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    # fault_tol=1: raise when frames had to be made up from their neighbours
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), fault_tol=1)
    if len(reader) < header.frames:  # cut off at the end of a packet
        raise DataError(f"{shown(path)}: {len(reader)} of {header.frames} frames")
    starts = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)  # [T]
    times = from_first(starts.tolist(), reader.get_avg_fps())

    def decode(wanted: Sequence[int], keep: Keep) -> tuple[list, list[float], bool]:
        # One by one: `get_batch` reads them no faster, and copies each once more, to memory that is new every time.
        return [keep(_picture(reader[index].asnumpy())) for index in wanted], times, False

    return times, decode


def _picture(pixels: np.ndarray) -> Image.Image:
    """Of [H, W, 3] uint8. ValueError where decord took the padding of its lines for a fourth colour."""
    if pixels.shape[2] != 3:
        raise ValueError(f"{pixels.shape[2]} colours")
    return Image.fromarray(pixels)


def open_pyav(path: Path, header: Header) -> tuple[list[float], Decode]:
    """Reads on where something is damaged. A sound file is decoded as far as the last frame that is wanted.

    It counts as sound as long as the frames are those that the packets announced, one for one.
    """
    times = announced_times(path, header)
    whole = header.tells and not header.cut and len(times) >= header.frames

    def decode(wanted: Sequence[int], keep: Keep) -> tuple[list, list[float], bool]:
        nonlocal whole
        kept, found, lost, chosen = [], [], header.cut, set(wanted)
        with _opened(path) as container:
            unit, rate = _clock(_video_stream(container))
            for frame in _pyav_frames(container):
                if frame is None or frame.is_corrupt:
                    lost = True
                    continue
                if len(found) in chosen:
                    kept.append(keep(_upright(frame)))
                found.append(None if frame.pts is None else frame.pts * unit)
                at_last = bool(wanted) and len(found) == wanted[-1] + 1
                if at_last and whole and not lost and _as_announced(found, times, rate):
                    return kept, times, False
        whole = whole and not lost  # else it would seem to hold more again when less of it is wanted
        return kept, from_first(found, rate), lost

    return times, decode


def announced_times(path: Path, header: Header) -> list[float]:
    """Times of the frames that the file's packets hold; nothing is decoded."""
    if header.times is not None:
        return header.times
    with _looked_into(path) as container:
        return _announced(container, _video_stream(container))


def open_pillow(path: Path) -> tuple[list[float], Decode]:
    """An animation, or a still picture as a clip of one frame. Its times before it is decoded are a guess."""
    with quiet_pillow(), open_image(path) as image:
        claimed = _frames_claimed(image)

    def decode(wanted: Sequence[int], keep: Keep) -> tuple[list, list[float], bool]:
        kept, times, now, chosen = [], [], 0.0, set(wanted)
        with quiet_pillow(), open_image(path) as image:
            for index in range(claimed):
                try:
                    image.seek(index)
                    frame = to_rgb(image)
                except Exception:  # the file ends inside this frame
                    return kept, times, True
                if index in chosen:
                    kept.append(keep(frame))
                times.append(now)
                now += image.info.get("duration", 0) / 1000 or STILL
        return kept, times, False

    return [STILL * index for index in range(claimed)], decode


def from_first(starts: Sequence[float | None], rate: float) -> list[float]:
    """Times of frames counted from the first; at a constant rate where the file's own are missing or do not ascend."""
    times = np.array([np.nan if start is None else start for start in starts], dtype=np.float64)
    if len(times) and np.isfinite(times).all() and (np.diff(times) > 0).all():
        return (times - times[0]).tolist()
    return [index / rate for index in range(len(times))]


def natural(path: Path) -> tuple[list[str | int], str]:
    """Sorts frame2 before frame10."""
    pieces = re.split(r"(\d+)", path.name.lower())
    return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)], path.name


def _frames_claimed(image: Image.Image) -> int:
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # cut off before the frames could be counted
        return 1


def _opened(path: Path, options: dict[str, str] | None = None) -> Any:
    """PyAV's container. The prefix keeps a colon in a name from being read as a protocol."""
    import av

    return av.open(f"file:{path}", metadata_errors="replace", options=options)


def _looked_into(path: Path) -> Any:
    """The container, for its header and packets only.

    FFmpeg decodes the first frames of a file that it opens: 33 ms of 1080p, where all the rest takes one. It is told
    not to; files whose frames have no size before one is decoded are opened once more.
    """
    container = _opened(path, {"skip_frame": "all"})
    if all(stream.width and stream.height for stream in container.streams.video):
        return container
    container.close()
    return _opened(path)


def _video_stream(container: Any) -> Any:
    """The first moving picture: a cover picture inside an audio file is not one, nor is text drawn as video."""
    from av.stream import Disposition

    moving = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
    return next((s for s in moving if s.codec_context.name != "ansi"), None)


def _clock(stream: Any) -> tuple[float, float]:
    """Seconds of a unit of its times, and frames a second."""
    return float(stream.time_base or 0), float(stream.average_rate or stream.guessed_rate or USUAL_RATE)


def _announced(container: Any, stream: Any) -> list[float]:
    """Times of the frames that the packets hold."""
    unit, rate = _clock(stream)
    return from_first([None if pts is None else pts * unit for pts in _packet_times(container, stream)], rate)


def _as_announced(found: list[float | None], times: list[float], rate: float) -> bool:
    return np.allclose(from_first(found, rate), times[: len(found)], rtol=0, atol=1e-6)


def _packet_times(container: Any, stream: Any) -> list[int | None]:
    """When the packets' frames are shown, in that order; nothing is decoded."""
    import av

    found, packets = [], container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):  # the latter where the file ends where it should not
            break
        if packet.size and not packet.is_discard:
            found.append(packet.pts)
    return found if None in found else sorted(found)


def _pyav_frames(container: Any) -> Iterator[Any]:
    """Frames in the order they are shown; None where a packet cannot be read or decoded."""
    import av

    stream = _video_stream(container)
    stream.thread_type = "SLICE"  # with frame threads the marks of damaged frames vary from run to run
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
    image = Image.fromarray(frame.to_ndarray(format="rgb24"))  # `to_image` takes three times as long
    turn = 90 * round(frame.rotation / 90)
    return image.rotate(turn, expand=True) if turn else image
