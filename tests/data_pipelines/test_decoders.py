"""What is decoded and what is not: no frame for a header, and with PyAV none behind the last one that is wanted.

Only where the packets told the truth, that is; else all are.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data_pipelines import decoders
from data_pipelines.decoders import announced_times, open_pyav, probe
from data_pipelines.errors import DataError
from data_pipelines.sampling import centres
from data_pipelines.video import load_clip, load_video

FRAMES, RATE = 40, 25


@pytest.fixture
def clip(tmp_path) -> Path:
    return write(tmp_path / "a.ts")


def write(path: Path, width: int = 64, options: dict[str, str] | None = None) -> Path:
    """A clip whose frame i is grey 5 * i."""
    import av

    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((48, width, 3), 5 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def decoded(monkeypatch) -> list:
    """A list that grows by every frame that is decoded."""
    seen, frames = [], decoders._pyav_frames

    def noted(container):
        for frame in frames(container):
            seen.append(frame)
            yield frame

    monkeypatch.setattr(decoders, "_pyav_frames", noted)
    return seen


def grey(frame) -> int:
    return round(np.asarray(frame).mean() / 5)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi", "h264"])
def test_what_a_file_says_is_the_same_without_decoding_any_of_it(tmp_path, monkeypatch, suffix):
    """The oracle is the file as FFmpeg opens it by default, decoding its first frames."""
    path = write(tmp_path / f"a.{suffix}")
    looked, times = probe(path), announced_times(path, replace(probe(path), times=None))
    monkeypatch.setattr(decoders, "_looked_into", decoders._opened)
    assert looked == probe(path)
    assert times == announced_times(path, replace(looked, times=None)) and len(times) == FRAMES


def test_a_file_that_hides_its_frames_size_until_one_is_decoded_is_opened_again(clip, monkeypatch):
    """Else its frames could be of any size: the limit would let no size at all pass."""
    opened = decoders._opened

    def secretive(path, options=None):
        if options is None:
            return opened(path)
        stream = SimpleNamespace(width=0, height=0)
        return SimpleNamespace(streams=SimpleNamespace(video=[stream]), close=lambda: None)

    monkeypatch.setattr(decoders, "_opened", secretive)
    monkeypatch.setattr(decoders, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(DataError, match="64x48"):
        probe(clip)


@pytest.mark.parametrize("options, packet", [({}, 188), ({"mpegts_m2ts_mode": "1"}, 192)])
def test_a_transport_stream_is_whole_if_its_last_packet_is(tmp_path, caplog, options, packet):
    path = write(tmp_path / "a.ts", options=options)
    assert path.stat().st_size % packet == 0 and not probe(path).cut
    assert len(load_clip(path, {"timestamps": [0.4]})) == 1 and not caplog.records
    path.write_bytes(path.read_bytes()[: path.stat().st_size // packet // 2 * packet + 50])
    assert probe(path).cut
    kept = load_clip(path, {"timestamps": [0.2, 1.5]})  # the second moment is gone, and no mistake of the user's
    assert [grey(frame) for frame in kept] == [5] and [str(path) in text for text in caplog.messages] == [True]


@pytest.mark.parametrize("width", [46, 48, 50])
def test_lines_that_decord_pads_are_no_other_colours(tmp_path, caplog, width):
    """It pads lines to 64 bytes: those of 48 pixels to four bytes a pixel, which it takes for four colours."""
    path = write(tmp_path / "a.mp4", width)
    frames = load_video(path, 4)
    assert [grey(frame) for frame in frames] == centres(FRAMES, 4)
    assert {frame.size for frame in frames} == {(width, 48)}
    assert not caplog.records


def test_a_sound_stream_is_decoded_as_far_as_it_is_wanted(clip, decoded):
    times, decode = open_pyav(clip, probe(clip))
    assert times == pytest.approx([number / RATE for number in range(FRAMES)])
    kept, sound, lost = decode([5, 15, 24], grey)
    assert kept == [5, 15, 24] and sound == times and not lost and len(decoded) == 25


@pytest.mark.parametrize("said", ["two packets a frame", "other times"])
def test_where_packets_are_not_frames_all_is_decoded_and_counted(clip, decoded, said):
    header = probe(clip)
    truth = announced_times(clip, header)
    doubled = [time + half for time in truth for half in (0.0, 0.02)]
    header = replace(header, times=doubled if said == "two packets a frame" else [1.1 * time for time in truth])
    _, decode = open_pyav(clip, header)
    kept, sound, lost = decode([5, 15], grey)
    assert kept == [5, 15] and sound == pytest.approx(truth) and not lost and len(decoded) == FRAMES


def test_what_was_found_damaged_once_is_read_to_its_end(clip, decoded, monkeypatch):
    """Frame 30 is lost. That it is shows only when it is reached, and must not be forgotten when fewer are wanted."""
    frames = decoders._pyav_frames
    lossy = lambda container: (None if n == 30 else frame for n, frame in enumerate(frames(container)))  # noqa: E731
    monkeypatch.setattr(decoders, "_pyav_frames", lossy)
    times, decode = open_pyav(clip, probe(clip))
    sound = [time for n, time in enumerate(times) if n != 30]
    assert decode([5, 20], grey) == ([5, 20], times, False) and len(decoded) == 21
    for wanted in ([5, 39], [5, 20]):
        kept, found, lost = decode(wanted, grey)
        assert found == pytest.approx(sound) and lost and kept == [n for n in wanted if n < 30]
