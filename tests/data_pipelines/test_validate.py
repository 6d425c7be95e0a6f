"""Validation: good files count and pass; each kind of damage is listed with its file and line, and fails."""

import json
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from data_pipelines.readers.reading import shards
from data_pipelines.validate import main, report, validate


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 20), "red").save(tmp_path / "red.png")
    Image.new("RGB", (40, 20), "red").save(tmp_path / "same.bmp")
    Image.new("RGB", (300, 9), "blue").save(tmp_path / "blue.png")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime")]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    return tmp_path


def turns(question, answer="yes"):
    said = [("human", question)] if answer is None else [("human", question), ("gpt", answer)]
    return [{"from": role, "value": text} for role, text in said]


GOOD = [
    {"id": "a", "image": "red.png", "conversations": turns("<image>\nIs it?")},
    {"id": "b", "image": "blue.png", "conversations": turns("<image>\nIs it?")},
    {"id": "c", "conversations": turns("Words only.")},
    {"id": "d", "video": "clip.gif", "conversations": turns("<video>\nDoes it move?", None)},
    {"id": "e", "image": "same.bmp", "conversations": turns("<image>\nIs it?")},
]


def found(path):
    return validate(shards(path))


def test_good_files_are_counted_and_pass(folder, capsys):
    (folder / "good.json").write_text(json.dumps(GOOD))
    assert main(["good.json", "--png", "out.png"]) == 0
    out = capsys.readouterr().out
    for line in ("samples: 5", "text-only samples: 1", "images: 3", "videos: 1", "samples without an answer: 1",
                 "bad samples: 0", "copies: 1"):  # fmt: skip
        assert line in out.splitlines()
    assert Image.open(folder / "out.png").format == "PNG"
    assert "good.json: item 5 has the content of good.json: item 1" in out


def characters(model):
    """A token counter: a character a token, a picture ten, and no blue ones."""

    def count(messages, sizes):
        if (300, 9) in sizes:
            raise ValueError("too wide")
        return len(str(messages[0]["content"])) + 10 * len(sizes) + int(model or 0)

    return count


def test_lengths_are_tokens_where_something_counts_them(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "counters", SimpleNamespace(characters=characters))
    (folder / "good.json").write_text(json.dumps(GOOD[1:3]))
    assert main(["good.json", "--count", "counters:characters", "--model", "600"]) == 1
    out = capsys.readouterr().out
    assert "Tokens of a sample\n  512–1023 " in out and "Characters" not in out
    assert "good.json: item 1: sample 'b': too wide" in out
    assert main(["good.json", "--count", "counters:none"]) == 2


def test_one_unreadable_source_does_not_keep_the_others_from_being_read(folder, capsys):
    (folder / "good.json").write_text(json.dumps(GOOD))
    (folder / "wide.json").write_text(json.dumps(GOOD), "utf-16")
    assert main(["wide.json", "good.json"]) == 1
    out = capsys.readouterr().out
    assert "samples: 5" in out and "bad samples: 1" in out and "wide.json: the file is UTF-16" in out


def test_histograms_hold_every_sample_in_its_bin(folder):
    (folder / "good.json").write_text(json.dumps(GOOD))
    findings = found("good.json")
    lengths = [sum(len(t["value"].replace("<image>\n", "").replace("<video>\n", "")) for t in r["conversations"])
               for r in GOOD]  # fmt: skip
    assert sorted(findings.lengths.elements()) == sorted(n.bit_length() for n in lengths)
    assert sorted(findings.sides.elements()) == sorted(side.bit_length() for side in (40, 300, 16, 40))
    shown = report(findings)
    assert "32–63" in shown and "256–511" in shown


BAD = {
    "missing picture": ({"image": "gone.png", "conversations": turns("<image>\nIs it?")}, "gone.png"),
    "cut picture": ({"image": "cut.png", "conversations": turns("<image>\nIs it?")}, "truncated or damaged"),
    "more placeholders": ({"image": "red.png", "conversations": turns("<image><image>")}, "2 <image>"),
    "outside": ({"image": "../red.png", "conversations": turns("<image>\nIs it?")}, "outside the media root"),
    "no turns": ({"image": "red.png", "conversations": []}, "conversations"),
    "not JSON": ("{oops", "not JSON"),
    "not UTF-8": (b"{\xff}", "UTF-8"),
}


def test_each_bad_sample_is_listed_with_its_line_and_fails(folder, capsys):
    (folder / "cut.png").write_bytes((folder / "blue.png").read_bytes()[:-30])
    lines = [json.dumps(GOOD[0]).encode()]
    for record, _ in BAD.values():
        lines.append(record if isinstance(record, bytes) else
                     (record if isinstance(record, str) else json.dumps(record)).encode())  # fmt: skip
    (folder / "bad.jsonl").write_bytes(b"\n".join(lines))
    assert main(["bad.jsonl"]) == 1
    out = capsys.readouterr().out
    listed = out[out.index("Bad samples") :].splitlines()[1:]
    assert len(listed) == len(BAD) == len(found("bad.jsonl").bad)
    for number, (line, (_, says)) in enumerate(zip(listed, BAD.values()), 2):
        assert line.startswith(f"  bad.jsonl:{number}") and says in line
    assert f"samples: {len(BAD) + 1}" in out


def test_several_sources_are_one_report_and_a_missing_one_is_an_error_line(folder, capsys):
    (folder / "one.json").write_text(json.dumps(GOOD[:2]))
    (folder / "two.jsonl").write_text(json.dumps(GOOD[0]) + "\n")
    assert main(["one.json", "two.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "samples: 3" in out and "two.jsonl:1 has the content of one.json: item 1" in out
    assert main(["one.json", "--png", "histograms.x"]) == 0 and Image.open(folder / "histograms.x").format == "PNG"
    capsys.readouterr()
    assert main(["gone.json"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: gone.json: no such file"
