"""What a conversation shows, opened as its parts ask; and the times of frames, as text before each."""

import json

import numpy as np
import pytest
from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.media import open_media, with_times
from data_pipelines.readers import BadLine, read
from data_pipelines.readers.messages import read_messages
from data_pipelines.record import image_part, media_parts, text_part, video_part
from data_pipelines.sampling import Sampling
from data_pipelines.video import Clip

RED = Image.new("RGB", (8, 6), "red")


@pytest.fixture
def folder(tmp_path):
    """a.gif: frame i is grey 20 i and is shown at i / 2 seconds."""
    frames = [Image.new("L", (8, 6), 20 * i) for i in range(8)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=500)
    RED.save(tmp_path / "a.png")
    return tmp_path


def turn(*parts) -> list[dict]:
    return [{"role": "user", "content": list(parts)}]


def greys(clip) -> list[int]:
    return [round(np.asarray(frame).mean() / 20) for frame in clip]


def opened(*parts, **options) -> list[int]:
    (clip,) = open_media(turn(*parts), **options)
    return greys(clip)


def test_a_parts_settings_prevail_over_the_runs(folder):
    part = video_part(str(folder / "a.gif"))
    assert opened(part) == list(range(8))
    assert opened(part, frames=2) == opened({**part, "max_frames": 2}) == [2, 6]
    assert opened({**part, "fps": 1}) == [0, 2, 4, 6]
    assert opened({**part, "fps": 1, "start": 1, "end": 2.5}) == [2, 4]
    assert opened({**part, "timestamps": [0.6, 3]}) == [1, 6]
    run = Sampling(max_frames=2, fps=1)
    assert opened(part, sampling=run) == [2, 6]
    assert opened({**part, "max_frames": 9}, sampling=run) == [0, 2, 4, 6]
    assert opened({**part, "scenes": True}, sampling=run) == [0, 4]  # every change is as large: the first one counts
    assert opened({**part, "fps": None, "end": None, "timed": None}) == list(range(8))


def test_a_part_opened_before_stays_as_it_is():
    clip = Clip([RED], [1.0])
    assert open_media(turn({**video_part(clip), "fps": 2, "timed": True}))[0] is clip


def test_errors_name_the_file_or_the_list(folder):
    for settings, says in (
        ({"fps": float("nan")}, "fps must be a positive number, not nan"),
        ({"start": -1}, "start must be a number of seconds from 0 on, not -1"),
        ({"start": 2, "end": 1}, "start 2 s must lie before end 1 s"),
        ({"timestamps": [99]}, "timestamp 99 s lies behind its end at 4 s"),
        ({"timed": "yes"}, "timed must be true or false, not 'yes'"),
    ):
        for video, name in ((str(folder / "a.gif"), str(folder / "a.gif")), ([RED] * 8, "the list of video frames")):
            settings = settings if isinstance(video, str) else {**settings, "raw_fps": 2}
            with pytest.raises(DataError) as caught:
                open_media(turn({**video_part(video), **settings}))
            assert str(caught.value) == f"{name}: {says}"
    with pytest.raises(DataError, match="the list of video frames: timed needs raw_fps"):
        open_media(turn({**video_part([RED]), "timed": True}))


def test_timed_frames_stand_behind_their_times_and_all_else_stays(folder):
    part = {**video_part(str(folder / "a.gif")), "fps": 1, "timed": True}
    plain = {**part, "timed": False}
    messages = [
        {"role": "system", "content": "short"},
        *turn(image_part(RED), part, text_part("What?"), plain),
        {"role": "assistant", "content": [text_part("So.")]},
        *turn({**part, "timestamps": [0.5, 0.9], "fps": None}, text_part("And?")),
    ]
    media = open_media(messages)
    turns, told = with_times(messages, media)
    assert turns[0] == messages[0] and turns[2] == messages[2] and len(turns) == 4
    first, last = turns[1]["content"], turns[3]["content"]
    texts = ["0:00 ", "0:01 ", "0:02 ", "0:03 "]
    assert [p["type"] for p in first] == ["image", *["text", "video"] * 4, "text", "video"]
    assert [p["text"] for p in first if p["type"] == "text"] == [*texts, "What?"]
    assert [p.get("text") for p in last] == ["0:00 ", None, "And?"]  # both moments have the same frame
    assert [p[p["type"]] for p in media_parts(turns)][1:5] == told[1:5] and told[0] is media[0] and told[5] is media[2]
    assert [greys(clip) for clip in told[1:5]] == [[0], [2], [4], [6]] and greys(told[6]) == [1]
    assert len(media_parts(turns)) == len(told)


def test_without_timed_videos_nothing_is_copied(folder):
    messages = turn(video_part(str(folder / "a.gif")))
    media = open_media(messages)
    assert with_times(messages, media) == (messages, media) and with_times(messages, media)[0] is messages
    timed = turn({**video_part(str(folder / "a.gif")), "timed": True})
    assert with_times(timed, [])[0] is timed  # too few media: the processor says so


@pytest.mark.parametrize("reader", [read, read_messages])
def test_records_say_how_their_videos_are_sampled(folder, reader):
    part = {"type": "video", "video": "a.gif", "fps": 1, "start": 1, "timed": True, "end": None, "note": "mine"}
    lines = [
        {"messages": turn(part, text_part("?"))},
        {"messages": turn({"type": "video", "path": "a.gif", "timestamps": [1, float("nan")]}, text_part("?"))},
        {"messages": turn({"type": "video", "video": "a.gif", "start": 2, "end": 1}, text_part("?"))},
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    good, nan, backwards = reader(folder / "a.jsonl")
    (found,) = media_parts(good.messages)
    assert found == {"type": "video", "video": str(folder / "a.gif"), "fps": 1, "start": 1, "timed": True}
    assert opened(found) == [2, 4, 6]
    assert isinstance(nan, BadLine) and "a.gif" in nan.reason and "not nan" in nan.reason and ":2" in nan.reason
    assert isinstance(backwards, BadLine) and "start 2 s must lie before end 1 s" in backwards.reason


def test_a_placeholder_part_keeps_what_it_says(folder):
    record = {"messages": turn({"type": "video", "fps": 1}, text_part("?")), "videos": ["a.gif"]}
    (folder / "a.jsonl").write_text(json.dumps(record) + "\n")
    (sample,) = read(folder / "a.jsonl")
    assert media_parts(sample.messages) == [{"type": "video", "video": str(folder / "a.gif"), "fps": 1}]
