"""What is told of media before they are read is what reading them gives, and no pixel is needed for it."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.media import open_media
from data_pipelines.readers.resolve import Closed, Media, closed, reopened
from data_pipelines.sampling import Sampling
from data_pipelines.unread import told, unread_clip, unread_media
from data_pipelines.video import load_clip

FRAMES, RATE = 40, 25


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def video(path: Path, codec: str = "mpeg4") -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 5 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("clips")
    pictures = [photo(12, 10, seed) for seed in range(9)]
    pictures[0].save(folder / "a.gif", save_all=True, append_images=pictures[1:], duration=80)
    (folder / "frames").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(folder / "frames" / f"{number}.png")
    files = {name: str(video(folder / name)) for name in ("a.mp4", "a.mkv", "a.avi")}
    return {**files, "a.ts": str(video(folder / "a.ts", "libx264")), "a.gif": str(folder / "a.gif"),
            "frames": str(folder / "frames"), "list": pictures}  # fmt: skip


BY_NUMBER = [{}, {"max_frames": 3}, {"max_frames": 100}, {"scenes": True, "max_frames": 4}]
BY_TIME = [{"fps": 5}, {"fps": 3, "start": 0.3, "end": 0.9}, {"timestamps": [0.1, 0.11, 0.7]}, {"start": 0.5}]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts", "a.gif", "frames", "list"])
def test_as_many_frames_as_reading_gives(clips, name):
    pictures = name in ("frames", "list")
    for asked in [*BY_NUMBER, *({**a, "raw_fps": 10} if pictures else a for a in BY_TIME)]:
        sampling = Sampling(**asked)
        if name == "a.gif" and sampling.by_time:
            with pytest.raises(DataError, match="a.gif: an animation's times"):
                unread_clip(clips[name], sampling)
            continue
        assert len(unread_clip(clips[name], sampling)) == len(load_clip(clips[name], sampling)), asked


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_timed_clips_times_are_those_of_its_frames(clips, name):
    parts = [{"type": "text", "text": "Look:"}, {"type": "video", "video": clips[name], "fps": 4, "timed": True}]
    messages = [{"role": "user", "content": parts}]
    turns, sizes = told(messages, unread_media(messages, Sampling()))
    (clip,) = open_media(messages)
    shown = [part["text"] for part in turns[0]["content"] if part["type"] == "text"]
    assert sizes == [1] * len(clip) and len(shown) == 1 + len(clip)
    assert shown == [p["text"] for p in told(messages, [clip])[0][0]["content"] if p["type"] == "text"]
    with pytest.raises(DataError, match="scenes"):
        unread_clip(clips[name], Sampling(scenes=True), timed=True)


def test_sizes_are_upright_and_need_no_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(300, 200).save(tmp_path / "turned.jpg", exif=exif)
    data = (tmp_path / "turned.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    messages = [{"role": "user", "content": [{"type": "image", "image": str(tmp_path / "cut.jpg")}]}]
    assert unread_media(messages, Sampling()) == [(200, 300)]
    with pytest.raises(DataError, match="truncated"):
        open_media(messages)


def test_a_clip_without_what_is_asked_is_refused_as_when_it_is_read(clips):
    for part in ({"fps": 2}, {"timed": True}):
        messages = [{"role": "user", "content": [{"type": "video", "video": clips["frames"], **part}]}]
        with pytest.raises(DataError, match="raw_fps") as early:
            unread_media(messages, Sampling())
        with pytest.raises(DataError) as late:
            open_media(messages)
        assert str(early.value) == str(late.value)


def test_pictures_that_came_as_bytes_travel_as_bytes(tmp_path):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 8
    photo(31, 17).save(file, "JPEG", exif=exif)
    find = Media(None, {"a.jpg": file.getvalue()}).find
    drawn = photo(5, 4)
    parts = [{"type": "image", "image": find("image", "a.jpg")}, {"type": "image", "image": drawn},
             {"type": "video", "video": find("video", ["a.jpg", "a.jpg"])}, {"type": "text", "text": "?"}]  # fmt: skip
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "!"}]
    shut = closed(messages)
    assert shut[0]["content"][0]["image"] == Closed(file.getvalue(), "a.jpg") and shut[0]["content"][1] is parts[1]
    there = reopened(pickle.loads(pickle.dumps(shut)))
    before, after = open_media(messages), open_media(there)
    assert before[0].size == (17, 31) and before[0].tobytes() == after[0].tobytes()
    assert [f.tobytes() for f in before[2]] == [f.tobytes() for f in after[2]] and there[1] == messages[1]
