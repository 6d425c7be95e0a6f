"""Requests to answers: in order, each as if it were alone, none lost to its neighbours or to a kill."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from data_pipelines.errors import DataError
from tests.vlm.cli.lively import lively_model
from vlm.answering import answer_batch, build_request, settings
from vlm.cli.batch import run_batch

MODEL, PROCESSOR = lively_model()
WORDS = ["red", "How many circles?", "small star", "blue green", "0 1 2 3", "What color is it?", "top"]
TIMES = ("prefill_s", "decode_s")


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60, 3)).astype(np.uint8))


def ask(name: str, text: str, *media: str) -> dict:
    parts = [{"type": "image", "image": path} for path in media]
    return {"id": name, "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]}


@pytest.fixture
def requests(tmp_path):
    """Seven good requests with 0, 1 or 2 images."""
    for k in range(3):
        image(k).save(tmp_path / f"{k}.png")
    media = [(), ("0.png",), ("1.png", "2.png"), (), ("2.png",), ("0.png",), ("2.png", "1.png")]
    return [ask(f"r{k}", text, *paths) for k, (text, paths) in enumerate(zip(WORDS, media))]


@pytest.fixture
def run(tmp_path):
    """Write lines (objects, or text as it is), run, and return (failures, records)."""

    def call(lines: list, target: str = "out.jsonl", batch_size: int = 4, **options):
        source = tmp_path / "in.jsonl"
        source.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
        config = settings(MODEL, **{"max_new_tokens": 7, **options})
        failed = run_batch(MODEL, PROCESSOR, config, str(source), str(tmp_path / target), batch_size, 4, "tiny")
        return failed, records(tmp_path / target)

    return call


def records(path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def timeless(records: list[dict]) -> list[dict]:
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def alone(request: dict, folder, **options) -> str:
    content = request["messages"][0]["content"]
    media = [Image.open(folder / part["image"]).convert("RGB") for part in content if part["type"] == "image"]
    config = settings(MODEL, **{"max_new_tokens": 7, **options})
    return answer_batch(MODEL, PROCESSOR, [build_request(PROCESSOR, request["messages"], media)], config)[0].answer


@pytest.mark.parametrize("options", [{}, {"mode": "ar"}, {"temperature": 1.5}])
def test_every_request_is_answered_as_if_alone_and_in_order(run, requests, tmp_path, options):
    failed, got = run(requests, **options)
    assert failed == 0 and [r["id"] for r in got] == [r["id"] for r in requests]
    assert [r["answer"] for r in got] == [alone(r, tmp_path, **options) for r in requests]
    assert len({r["answer"] for r in got}) > 4
    fields = {"id", "answer", "tokens", "forwards", "tokens_per_forward", "prefill_s", "decode_s", "mode", "model"}
    assert all(r.keys() >= fields and r["model"] == "tiny" for r in got)


def test_the_batch_size_changes_nothing(run, requests):
    by_size = [timeless(run(requests, f"{size}.jsonl", size)[1]) for size in (1, 3, 4, 100)]
    assert all(got == by_size[0] for got in by_size[1:])


def test_bad_requests_fail_alone(run, requests, tmp_path):
    (tmp_path / "bad.png").write_text("no picture")
    bad = {
        "line-2": '{"id": "x", "messages": [',
        "gone": ask("gone", "red", "no.png"),
        "bad": ask("bad", "red", "0.png", "bad.png"),
        "empty": ask("empty", "  ", "0.png"),
        "reserved": ask("reserved", "<|mask|>"),
        "long": ask("long", "zq " * 500),
        "reply": {"id": "reply", "messages": [{"role": "assistant", "content": "red"}]},
    }
    says = ["in.jsonl:2", "no.png", "bad.png", "prompt is empty", "<|mask|>", "512", "must be the user's"]
    lines = [line for pair in zip(requests, bad.values()) for line in pair]
    failed, got = run(lines)
    assert failed == len(bad) == len(says)
    assert [r["id"] for r in got] == [name for pair in zip((r["id"] for r in requests), bad) for name in pair]
    assert all(r.keys() == {"id", "error"} and "\n" not in r["error"] for r in got[1::2])
    assert all(part in r["error"] for part, r in zip(says, got[1::2]))
    assert [r["answer"] for r in got[::2]] == [alone(r, tmp_path) for r in requests]


def test_a_repeated_id_is_an_error_not_an_overwrite(run, requests):
    failed, got = run([requests[0], {**requests[1], "id": "r0"}, requests[2]])
    assert failed == 1 and [r["id"] for r in got] == ["r0", "line-2", "r2"] and "r0" in got[1]["error"]


def test_a_finished_run_is_not_repeated(run, requests, tmp_path, monkeypatch):
    run(requests)
    before = (tmp_path / "out.jsonl").read_bytes()
    monkeypatch.setattr("vlm.cli.batch.answer_batch", pytest.fail)
    assert run(requests)[0] == 0
    assert (tmp_path / "out.jsonl").read_bytes() == before


@pytest.mark.parametrize("share", [0, 0.02, 0.3, 0.55, 0.8, 0.999])
def test_a_run_killed_anywhere_and_resumed_is_the_whole_run(run, requests, tmp_path, share):
    lines = [requests[0], ask("föhn", "red", "no\u2028.png"), *requests[1:]]  # an error of more than ASCII
    failed, whole = run(lines, "whole.jsonl")
    kept = (tmp_path / "whole.jsonl").read_bytes()
    (tmp_path / "cut.jsonl").write_bytes(kept[: int(share * len(kept))])
    again, got = run(lines, "cut.jsonl")
    assert timeless(got) == timeless(whole) and again == failed == 1


def test_a_line_cut_inside_a_character_is_answered_again(run, requests, tmp_path):
    line = ask("漢" * 5, "red", "0.png")
    (tmp_path / "out.jsonl").write_bytes('{"id": "漢'.encode()[:-1])
    failed, got = run([line])
    assert failed == 0 and [r["id"] for r in got] == ["漢" * 5]


@pytest.mark.parametrize("text", ["my notes", "my notes\nof two lines", '{"messages": []}\n', "[1]\n", "\n"])
def test_a_file_that_holds_something_else_is_left_alone(run, requests, tmp_path, text):
    (tmp_path / "out.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"out\.jsonl:1: not a line of answers"):
        run(requests)
    assert (tmp_path / "out.jsonl").read_text() == text


def test_the_requests_are_never_written_into(run, requests, tmp_path):
    with pytest.raises(DataError, match=r"in\.jsonl: is the file of requests"):
        run(requests, "in.jsonl")
    assert len(records(tmp_path / "in.jsonl")) == len(requests)


def test_output_that_cannot_be_written(run, requests, tmp_path):
    for target in (".", "no/out.jsonl", "0.png/out.jsonl"):
        with pytest.raises(DataError, match="cannot be written"):
            run(requests, target)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_one_line(run, requests):
    with pytest.raises(DataError, match="/dev/full: cannot be written"):
        run(requests, "/dev/full")


def test_progress_stands_on_stderr_only(run, requests, capfd):
    run(requests)
    out, err = capfd.readouterr()
    assert out == "" and "7/7" in err
