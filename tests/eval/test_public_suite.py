"""Suites of public benchmarks as far as they need no lmms-eval: the file, its errors, settings, missing data."""

import json
from importlib.util import find_spec

import pytest
import yaml
from PIL import Image

from eval.__main__ import main
from eval.lmms_plugin.asking import Asked, conversation, settings_of
from eval.lmms_plugin.data import missing
from eval.lmms_plugin.responses import Response, kept, read
from eval.report import report
from eval.suites.public import FOLDER, GRADES, read_suite

SUITE = "benchmarks:\n  one: {grade: B, tasks: [a], metric: [acc], max_new_tokens: 7}\n"


def test_the_committed_suite_has_the_papers_twenty_one():
    suite = read_suite("sdar_vl_21")
    assert len(suite.benchmarks) == 21 and suite.text == (FOLDER / "sdar_vl_21.yaml").read_text(encoding="utf-8")
    assert {entry.kind for entry in suite.benchmarks.values()} == {"image", "multi-image", "video"}
    for entry in suite.benchmarks.values():
        assert entry.grade in GRADES and entry.tasks and entry.metric
        assert {"mode", "block_size", "threshold", "max_new_tokens", "stop"} <= entry.settings.keys()
    assert suite.benchmarks["chartqa"].settings["stop"] == ["\n"]
    judged = [entry.name for entry in suite.benchmarks.values() if entry.judge]
    assert judged == ["mathvista", "mathverse", "hallusion"]


def test_an_entry_has_the_defaults_and_what_it_says_itself(tmp_path):
    (tmp_path / "mine.yaml").write_text("defaults: {threshold: 0.5, max_new_tokens: 3}\n" + SUITE)
    entry = read_suite(str(tmp_path / "mine.yaml")).benchmarks["one"]
    assert entry.settings == {"threshold": 0.5, "max_new_tokens": 7} and entry.title == "one" and not entry.judge


@pytest.mark.parametrize("text, says", [
    ("benchmarks: {", "is no YAML"),
    ("a: 1", "a suite needs `benchmarks`"),
    ("benchmarks: {}", "a suite needs `benchmarks`"),
    ("benchmarks: {one: 3}", "one: must be keys and values"),
    ("benchmarks: {one: {grade: Z, tasks: [a], metric: [b]}}", "one: grade 'Z' is not one of A, A-, B, C"),
    ("benchmarks: {one: {grade: A, tasks: a, metric: [b]}}", "one: tasks must be a list of texts"),
    ("benchmarks: {one: {grade: A, tasks: [], metric: [b]}}", "one: tasks must be a list of texts"),
    ("benchmarks: {one: {grade: A, tasks: [a], metric: [b], stop: x}}", "one: stop must be a list of texts"),
    (SUITE.replace("max_new", "max_now"), "one: unknown key 'max_now_tokens'; did you mean max_new_tokens?"),
    ("defaults: {tresh: 1}\n" + SUITE, "defaults: unknown key 'tresh'"),
])  # fmt: skip
def test_a_suite_that_is_wrong_is_named(tmp_path, capsys, text, says):
    (tmp_path / "mine.yaml").write_text(text)
    assert main(["run", "--suite", str(tmp_path / "mine.yaml")]) == 2
    err = capsys.readouterr().err
    assert f"{tmp_path / 'mine.yaml'}: {says}" in err and err.count("\n") == 1


def test_names_that_are_not_known(capsys, tmp_path):
    for options, says in (
        (["--suite", "sdar_vl_12"], "unknown suite 'sdar_vl_12'; did you mean sdar_vl_21?"),
        (["--suite", str(tmp_path / "none.yaml")], "none.yaml: cannot be read as a suite (No such file"),
        (["--suite", "sdar_vl_21", "--tasks", "mmstar,mmm"], "unknown benchmark 'mmm'; did you mean mmmu"),
        (["--suite", "sdar_vl_21", "--processes", "0"], "--processes 0 must be at least 1"),
    ):
        assert main(["run", *options]) == 2
        err = capsys.readouterr().err
        assert says in err and err.count("\n") == 1


@pytest.mark.skipif(find_spec("lmms_eval") is not None, reason="lmms-eval is installed here")
def test_without_lmms_eval_one_line_names_the_extra(capsys):
    assert main(["run", "--suite", "sdar_vl_21", "--tasks", "mmstar"]) == 2
    err = capsys.readouterr().err
    assert 'needs lmms-eval, which is not installed: pip install "block-diffusion-vlm[lmms]"' in err
    assert err.count("\n") == 1


def test_list_shows_every_benchmark_with_its_grade(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for entry in read_suite("sdar_vl_21").benchmarks.values():
        assert f"{entry.name} {entry.grade}{'*' if entry.judge else ''}" in shown
    assert "block-diffusion-vlm[lmms]" in shown


@pytest.mark.parametrize("task, suite, own, expected", [
    ({}, {}, {}, {}),
    ({"until": ["\n\n"], "max_new_tokens": 16, "num_beams": 1, "image_aspect_ratio": "pad"}, {}, {},
     {"max_new_tokens": 16}),
    ({"until": "END", "temperature": 0.7, "top_p": 0.5}, {}, {},
     {"stop_strings": ["END"], "temperature": 0.7, "top_p": 0.5}),
    ({"temperature": 0.7, "top_p": 0.5, "do_sample": False}, {}, {}, {"temperature": 0.0}),
    ({"until": ["X"], "max_new_tokens": 16}, {"stop": ["\n"], "max_new_tokens": 32, "threshold": 0.9}, {},
     {"stop_strings": ["\n"], "max_new_tokens": 32, "threshold": 0.9}),
    ({"until": ["X"]}, {"stop": []}, {}, {}),
    ({}, {"mode": "block", "threshold": 0.9, "block_size": 4}, {"mode": "ar"}, {"mode": "ar"}),
    ({}, {"threshold": 0.9, "block_size": 4}, {"denoising_steps": 2}, {"block_size": 4, "denoising_steps": 2}),
])  # fmt: skip
def test_whose_settings_prevail(task, suite, own, expected):
    assert settings_of(task, suite, own) == expected


def test_requests_of_both_layouts_become_the_same_conversation(tmp_path):
    """Images, several images and a folder of frames, as a chat task and as a simple one say them."""
    pictures = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "green")]
    (tmp_path / "clip").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / "clip" / f"{number}.png")
    pictures[0].save(tmp_path / "a.png")
    for visuals, kinds in (
        ([pictures[0]], ["image"]),
        ([pictures[0], pictures[1]], ["image", "image"]),
        ([str(tmp_path / "a.png")], ["image"]),
        ([str(tmp_path / "clip")], ["video"]),
    ):
        parts = [{"type": kind, "url": visual} for kind, visual in zip(kinds, visuals)]
        chat = asked_as([{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}], True)
        simple = asked_as([visuals], False)
        assert chat[0] == simple[0] and [part["type"] for part in chat[0][0]["content"]] == [*kinds, "text"]
        assert list(map(pixels, chat[1])) == list(map(pixels, simple[1]))
    assert len(chat[1][0]) == 2  # frames


def asked_as(visual, chat):
    return conversation(Asked("What?", {}, lambda doc: visual, {}, "t", 0), chat, 2)


def pixels(media):
    return [picture.tobytes() for picture in (media if isinstance(media, list) else [media])]


@pytest.mark.parametrize("part, says", [
    ({"type": "audio", "url": "a.wav"}, "a question with audio"),
    ({"type": "video", "url": "a.mp4", "start_time": 3.0}, "between two times"),
    ({"type": "video", "url": {"video_start": 3, "path": "a.mp4"}}, "between two times"),
    ({"type": "image", "url": 7}, "media of type int"),
])  # fmt: skip
def test_media_that_are_not_seen_are_an_error(part, says):
    message = {"role": "user", "content": [part, {"type": "text", "text": "What?"}]}
    with pytest.raises(ValueError, match=says):
        conversation(Asked("", {}, lambda doc: [message], {}, "t", 0), True, 2)


def test_what_to_place_where(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    config = {"dataset_path": "lmms-lab/MLVU", "dataset_kwargs": {"video": True, "cache_dir": "mlvu"}}
    said = missing(config)
    assert "hf download lmms-lab/MLVU --repo-type dataset" in said
    assert str(tmp_path / "hub" / "datasets--lmms-lab--MLVU") in said and str(tmp_path / "mlvu") in said
    (tmp_path / "hub" / "datasets--lmms-lab--MLVU").mkdir(parents=True)
    assert "hub" not in missing(config).split("place it at")[1] and str(tmp_path / "mlvu") in missing(config)
    (tmp_path / "mlvu").mkdir()
    assert missing(config) is None
    assert missing({"dataset_path": "json"}) is None and missing({"dataset_path": str(tmp_path)}) is None


def test_responses_survive_a_kill_inside_a_line(tmp_path):
    first, second = (Response("t", n, "d", f"é{n}", value=(0.5, True) if n else None) for n in range(2))
    with kept(tmp_path) as responses:
        responses.add(first)
        responses.add(second)
    path = tmp_path / "responses.0.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with kept(tmp_path) as responses:
        assert list(responses.found) == [("t", 0, "d")] and responses.get("t", 1, "d") is None
        with pytest.raises(ValueError, match="another run is writing there"), kept(tmp_path):
            pass
        responses.add(second)
    assert [response.text for response in read(tmp_path).values()] == ["é0", "é1"]


def test_a_report_of_public_results(tmp_path):
    (tmp_path / "suite.yaml").write_text(SUITE)
    assert yaml.safe_load(SUITE)
    header = {"model": "m", "model_hash": "0", "limit": None, "settings": {"mode": "ar"}, "hardware": {}, "code": "1"}
    (tmp_path / "run.json").write_text(json.dumps({**header, "libraries": {}, "items": {"lmms_eval": "0.7.3"}}))
    with pytest.raises(ValueError, match="holds no finished task"):
        report(tmp_path)
    (tmp_path / "results").mkdir()
    scores = {"a": {"alias": "a", "acc,none": 0.25, "acc_stderr,none": 0.1}}
    data = {"limit": None, "results": scores, "n-samples": {"a": {"original": 4, "effective": 4}}}
    (tmp_path / "results" / "a.json").write_text(json.dumps(data))
    with kept(tmp_path) as responses:
        responses.add(Response("a", 0, "d", "yes", tokens=6, forwards=3, seconds=1.0))
        responses.add(Response("a", 1, "d", "", error="a 1: x.png: no such file"))
    shown = (report(tmp_path).parent / "report.md").read_text(encoding="utf-8")
    assert "| one | image | B | a | acc | 0.25 | 0.1 | 4 | 2.00 | 1 | 1 |" in shown
    assert "a 1: x.png: no such file" in shown and SUITE.strip() in shown
