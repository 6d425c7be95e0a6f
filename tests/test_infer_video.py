"""The video flags of the command line: what they ask of a video, and which of them make no sense."""

import io

import pytest
from PIL import Image

import infer
from data_pipelines.media import open_media
from data_pipelines.record import text_part, video_part
from tests.vlm.cli.lively import lively_model, save
from vlm.answering import answer_batch, build_request, settings


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A model, and a.gif: twelve frames, one every half second."""
    folder = tmp_path_factory.mktemp("video")
    save(folder / "model")
    frames = [Image.new("RGB", (8, 8), (20 * i, 255 - 20 * i, 0)) for i in range(12)]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:], duration=500)
    return folder


@pytest.fixture
def ask(here, capsys, monkeypatch):
    monkeypatch.chdir(here)

    def run(*flags: str) -> tuple[int, str, str]:
        try:
            status = infer.main(["--model", "model", "--max-new-tokens", "9", "--prompt", "red", *flags])
        except SystemExit as exit:
            status = exit.code
        return (status, *capsys.readouterr())

    return run


def direct(here, **asked) -> str:
    """The answer to the same video by a content part."""
    model, processor = lively_model()
    messages = [{"role": "user", "content": [{**video_part(str(here / "a.gif")), **asked}, text_part("red")]}]
    request = build_request(processor, messages, open_media(messages))
    return answer_batch(model, processor, [request], settings(model, max_new_tokens=9))[0].answer + "\n"


def test_flags_ask_what_a_content_part_asks(here, ask):
    cases = [
        ((), {}),
        (("--fps", "0.3"), {"fps": 0.3}),
        (("--fps", "1", "--frames", "2"), {"fps": 1.0, "max_frames": 2}),
        (("--start", "2", "--end", "3.5"), {"start": 2.0, "end": 3.5}),
        (("--fps", "1", "--timestamps"), {"fps": 1.0, "timed": True}),
    ]
    found = [ask("--video", "a.gif", *flags)[1] for flags, _ in cases]
    assert found == [direct(here, **asked) for _, asked in cases]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    "flags, says",
    [
        (("--video", "a.gif", "--start", "9"), "a.gif: start 9 s lies behind its end at 6 s"),
        (("--video", "a.gif", "--start", "3", "--end", "2"), "a.gif: start 3 s must lie before end 2 s"),
        (("--video", "a.gif", "--fps", "nan"), "a.gif: fps must be a positive number, not nan"),
        (("--video", "a.gif", "--start", "-1"), "a.gif: start must be a number of seconds from 0 on, not -1.0"),
        (("--fps", "1"), "--fps, --start, --end and --timestamps go with --video"),
        (("--timestamps",), "--fps, --start, --end and --timestamps go with --video"),
    ],
)
def test_what_makes_no_sense_is_one_line(ask, flags, says):
    status, out, err = ask(*flags)
    assert status == 2 and out == "" and says in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_chat_may_begin_with_a_sampled_video(here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    monkeypatch.setattr("sys.stdin", io.StringIO("red\n"))
    flags = ["--model", "model", "--max-new-tokens", "9", "--chat", "--video", "a.gif", "--fps", "1", "--timestamps"]
    assert infer.main(flags) == 0
    assert capsys.readouterr().out == direct(here, fps=1.0, timed=True)
