"""Every line of a messages file becomes a sample or says, with its number, why not."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.readers.messages import BadLine, read_messages, user_sample
from data_pipelines.record import Sample, media_parts

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "v.mp4").write_bytes(b"looked for, not decoded")
    (tmp_path / "frames").mkdir()
    return tmp_path


def write(folder, *lines, start=b"", end="\n"):
    path = folder / "requests.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_bytes(start + end.join([*texts, ""]).encode())
    return path


def test_parts_paths_and_other_fields(folder):
    content = [
        {"type": "image", "image": "a.png"},
        {"type": "video", "video": "v.mp4"},
        {"type": "video", "video": "frames"},
        {"type": "image", "image": str(folder / "a.png")},
        {"type": "text", "text": "What?"},
    ]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    path = write(folder, {"id": "7", "messages": messages, "answer": "4", "level": 2})
    (sample,) = read_messages(path)
    paths = [part[part["type"]] for part in media_parts(sample.messages)]
    assert paths == [str(folder / name) for name in ("a.png", "v.mp4", "frames", "a.png")]
    assert [part["type"] for part in sample.messages[1]["content"]] == ["image", "video", "video", "image", "text"]
    assert sample.messages[0] == messages[0] and sample.messages[1]["content"][-1] == content[-1]
    assert (sample.id, sample.meta, sample.source) == ("7", {"answer": "4", "level": 2}, str(path))


def test_media_root_replaces_the_files_folder(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    line = {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]}
    path = write(elsewhere, line)
    assert isinstance(next(read_messages(path)), BadLine)
    (sample,) = read_messages(path, media_root=folder)
    assert media_parts(sample.messages) == [{"type": "image", "image": str(folder / "a.png")}]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    turns=st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text()), min_size=1, max_size=4),
    blank=st.lists(st.sampled_from(["", "  ", "\t"]), max_size=3),
    bom=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]),
    ascii_only=st.booleans(),
)
def test_any_text_survives(tmp_path, turns, blank, bom, end, ascii_only):
    """Line separators inside strings, byte-order marks, blank lines and Windows line ends change nothing."""
    messages = [{"role": role, "content": text} for role, text in turns]
    lines = [*blank, json.dumps({"messages": messages}, ensure_ascii=ascii_only), *blank]
    path = write(tmp_path, *lines, start=b"\xef\xbb\xbf" if bom else b"", end=end)
    (sample,) = read_messages(path)
    assert sample.messages == messages and sample.id == f"line-{len(blank) + 1}"


BAD = [
    ("{'id': 1}", "not JSON"),
    ('{"id": "a", "messages": [', "not JSON"),
    ("[" * 100_000, "not JSON"),
    ("[1, 2]", "object is needed"),
    ("3", "object is needed"),
    ({"id": "x"}, "messages must be a list"),
    ({"messages": []}, "messages must be a list"),
    ({"messages": {"role": "user"}}, "messages must be a list"),
    ({"messages": ["hello"]}, "message must be an object"),
    ({"messages": [{"role": "robot", "content": "hi"}]}, "unknown role 'robot'"),
    ({"messages": [{"role": ["user"], "content": "hi"}]}, "unknown role"),
    ({"messages": [{"content": "hi"}]}, "unknown role None"),
    ({"messages": [{"role": "user"}]}, "content must be text"),
    ({"messages": [{"role": "user", "content": []}]}, "content must be a list that is not empty"),
    ({"messages": [{"role": "user", "content": ["hi"]}]}, "part must be an object"),
    ({"messages": [{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}]}]}, "unknown part type 'audio'"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "text must be text"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "image": 5}]}]}, "image must be text"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "image": "no.png"}]}]}, "no.png: no such file"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "image": "frames"}]}]}, "frames: is a directory"),
    ({"messages": [{"role": "user", "content": [{"type": "video", "video": "no.mp4"}]}]}, "no.mp4: no such file"),
    ({"messages": [{"role": "user", "content": [{"type": "video", "video": "x" * 5000}]}]}, "cannot be opened"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "image": "a\0.png"}]}]}, "no such file"),
    ({"messages": [{"role": "user", "content": "half \ud83d"}]}, "lone surrogate"),
    ({"id": 1.5, "messages": HELLO}, "id must be text"),
    ({"id": "", "messages": HELLO}, "id must be text"),
    ({"id": True, "messages": HELLO}, "id must be text"),
    ({"id": {"n": 1}, "messages": HELLO}, "id must be text"),
]


@pytest.mark.parametrize("line, says", BAD, ids=[f"{i}-{says}" for i, (_, says) in enumerate(BAD)])
def test_a_bad_line_says_why_and_spares_the_others(folder, line, says):
    good = {"id": "good", "messages": HELLO}
    path = write(folder, "", line, good)
    bad, sample = read_messages(path)
    assert isinstance(bad, BadLine) and bad.line == 2
    assert bad.reason.startswith(f"{path}:2: ") and says in bad.reason and bad.reason.isprintable()
    assert bad.id == ("x" if line == {"id": "x"} else "line-2")
    assert isinstance(sample, Sample) and sample.id == "good"


def test_ids_are_unique_text(folder):
    lines = [{"id": i, "messages": HELLO} for i in ("a", 7, "7", "a", None, "line-5")]
    path = write(folder, *lines, {"id": "b"}, {"id": "b", "messages": HELLO})
    records = list(read_messages(path))
    assert [type(r) for r in records] == [Sample, Sample, BadLine, BadLine, Sample, BadLine, BadLine, BadLine]
    assert [r.id for r in records] == ["a", "7", "line-3", "line-4", "line-5", "line-6", "b", "line-8"]
    assert "used before" in records[3].reason and "'a'" in records[3].reason


def test_the_file_itself_must_be_text(folder):
    for path, says in ((folder / "none.jsonl", "no such file"), (folder, "directory"), (folder / "z", "empty")):
        (folder / "z").write_bytes(b"")
        with pytest.raises(DataError, match=says):
            read_messages(path)  # at once, not at the first line
    for encoding, number in (("utf-16", 1), ("latin-1", 2)):
        path = folder / "other.jsonl"
        path.write_bytes('{"id": "1"}\n"café"\n'.encode(encoding))
        with pytest.raises(DataError, match=f"other.jsonl:{number}: the file is not UTF-8"):
            list(read_messages(path))


def test_lines_are_read_as_they_are_asked_for(folder):
    path = write(folder, {"messages": HELLO}, {"messages": HELLO})
    stream = read_messages(path)
    assert next(stream).id == "line-1"
    assert [s.id for s in stream] == ["line-2"]


def test_user_sample_puts_media_before_text():
    image = Image.new("RGB", (2, 2))
    sample = user_sample("Which?", [image, "b.png"], ["v.mp4"], system="Be brief.", id="q")
    system, user = sample.messages
    assert system == {"role": "system", "content": "Be brief."} and user["role"] == "user"
    assert user["content"] == [
        {"type": "image", "image": image},
        {"type": "image", "image": "b.png"},
        {"type": "video", "video": "v.mp4"},
        {"type": "text", "text": "Which?"},
    ]
    assert sample.id == "q" and [m["role"] for m in user_sample("Hi").messages] == ["user"]
