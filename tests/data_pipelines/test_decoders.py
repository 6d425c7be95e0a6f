"""How far PyAV decodes: to the last frame that is wanted where the packets told the truth, else to the end."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import decoders
from data_pipelines.decoders import announced_times, open_pyav, probe

FRAMES, RATE = 40, 25


@pytest.fixture
def clip(tmp_path) -> Path:
    import av

    path = tmp_path / "a.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 5 * number, np.uint8), format="rgb24")
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
