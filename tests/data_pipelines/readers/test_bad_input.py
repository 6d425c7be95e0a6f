"""What is wrong with a file or a record is said with its place and its id, and never costs another record."""

import base64
import gzip
import json
import multiprocessing
import os
import subprocess
import sys
import tarfile
import tracemalloc
from io import BytesIO

import pytest
from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.images import load_image
from data_pipelines.readers import BadLine, checks, json_array, jsonl, read, spool, tsv, webdataset
from data_pipelines.record import Sample, media_parts
from tests.data_pipelines.readers import formats
from tests.data_pipelines.readers.formats import CHATS

HELLO = {"conversations": [{"from": "human", "value": "hello"}]}
ONE, TEXT = CHATS[0], CHATS[2]


@pytest.fixture
def folder(tmp_path):
    """Media, and beside the folder a picture that its records must not reach."""
    folder = tmp_path / "data"
    folder.mkdir()
    formats.make_media(folder)
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    return folder


def asks(image=None, value="<image>\nWhat?", **more):
    record = {"id": "q7", "conversations": [{"from": "human", "value": value}], **more}
    return record if image is None else {**record, "image": image}


RECORDS = [
    (asks(["red.png", "blue.jpg"]), "1 <image> and 0 <video> placeholders for 2 images and 0 videos"),
    (asks(), "1 <image> and 0 <video> placeholders for 0 images and 0 videos"),
    (asks("red.png", "no place"), "0 <image> and 0 <video> placeholders for 1 images"),
    (asks("red.png", "<video>"), "0 <image> and 1 <video> placeholders for 1 images and 0 videos"),
    (asks(video="clip.gif", value="<video><video>"), "2 <video> placeholders for 0 images and 1 videos"),
    (asks("none.png"), "none.png: no such file"),
    (asks("../secret.png"), "'../secret.png' is outside the media root"),
    (asks("x/../../secret.png"), "outside the media root"),
    (asks("/etc/passwd"), "outside the media root"),
    (asks("file:///etc/passwd"), "outside the media root"),
    (asks("file://localhost/%2e%2e/etc/passwd"), "outside the media root"),
    (asks("https://example.org/a.png"), "remote address"),
    (asks("file://host/a.png"), "remote address"),
    (asks("loop.png"), "a symbolic link that leads to no file"),
    (asks("a\0.png"), "no such file"),
    (asks("data:image/png;base64,@@@"), "not base64"),
    (asks("data:image/png;base64"), "without data"),
    (asks("data:image/png;base64,"), "is empty"),
    (asks("data:image/png;base64,aGVsbG8="), "not an image"),
    (asks([5]), "image must be text, not 5"),
    (asks({"path": None, "bytes": None}), "image must be text"),
    (asks(video=["red.png", ["none.png"]], value="<video><video>"), "none.png: no such file"),
    ({"id": "q7", "conversations": [{"from": "gpt", "value": "<image>"}], "image": "red.png"}, "the user's turns"),
    ({"id": "q7", "conversations": [{"from": "tool", "value": "x"}]}, "unknown role 'tool'"),
    ({"id": "q7", "conversations": "hello"}, "conversations must be a list"),
    ({"id": "q7", "conversations": ["hello"]}, "a message must be an object"),
    ({"id": "q7", "conversations": [{"from": "human"}]}, "content must be text"),
    ({"id": "q7", "messages": [{"role": "user", "content": "x", "loss": "no"}]}, "loss must be true or false"),
    ({"id": "q7", "messages": [{"role": "user", "content": "x", "spelled": 2}]}, "spelled must be true or false"),
    ({"id": "q7", "messages": [{"role": "user", "content": "see <image>"}]}, "1 <image> and 0 <video> placeholders"),
    ({"id": "q7", "texts": [{"user": "a"}]}, "assistant must be text"),
    ({"id": "q7", "instruction": "a", "output": "b", "history": ["a"]}, "history must be a list of pairs"),
    ({"id": "q7", "question": "a", "image": "red.png"}, "image is not base64"),
    ({"id": "q7", "question": "a", "image_path": "['red.png'"}, "is not a list"),
    ({"id": "q7", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image must be text, not None"),
    ({"id": "q7", "caption": "a"}, "no known format has the fields ['caption', 'id']"),
]


@pytest.mark.parametrize("record, says", RECORDS, ids=[says for _, says in RECORDS])
def test_a_bad_record_is_named_and_spares_the_others(folder, record, says):
    (folder / "loop.png").symlink_to("loop.png")
    path = formats.write_jsonl(folder / "x.jsonl", [HELLO, record, HELLO])
    first, bad, last = read(path)
    assert isinstance(first, Sample) and isinstance(last, Sample)
    assert (bad.id, bad.line) == ("q7", 2) and says in bad.reason and bad.reason.isprintable()
    assert bad.reason.startswith(f"{path}:2: sample 'q7': ")
    path = formats.write_array(folder / "x.json", [HELLO, record, HELLO])
    assert [type(r) for r in read(path)] == [Sample, BadLine, Sample]


def test_the_media_root_is_both_start_and_fence(folder, tmp_path):
    path = formats.write_jsonl(folder / "x.jsonl", [asks("red.png"), asks("../secret.png"), asks("secret.png")])
    kinds = {
        None: [Sample, BadLine, BadLine],
        tmp_path: [BadLine, BadLine, Sample],
        folder: [Sample, BadLine, BadLine],
    }
    for root, expected in kinds.items():
        assert [type(r) for r in read(path, media_root=root)] == expected
    inside = formats.write_jsonl(folder / "y.jsonl", [asks(str(folder / "red.png")), asks("sub/../red.png")])
    assert [media_parts(s.messages)[0]["image"] for s in read(inside)] == [str(folder / "red.png")] * 2
    (folder / "red2").symlink_to(folder / "red.png")  # the user's own arrangement
    assert isinstance(next(read(formats.write_jsonl(folder / "z.jsonl", [asks("red2")]))), Sample)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_encodings(folder, name):
    write = formats.write_jsonl if name == "x.jsonl" else formats.write_array
    record = asks("red.png", "<image>\ncafé")
    path = write(folder / name, [HELLO, record, HELLO])
    right = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + right)
    assert next(iter(list(read(path))[1:])).messages[0]["content"][1]["text"] == "café"
    path.write_bytes(right.replace("é".encode(), b"\xe9"))
    good, bad, last = read(path)
    assert isinstance(good, Sample) and "not UTF-8" in bad.reason and isinstance(last, Sample)
    path.write_bytes(right.decode().encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16"):
        read(path)


def test_a_long_line_is_refused_at_the_price_of_the_limit(folder):
    """A line of 100 MB between two good ones, and again as an item of an array."""
    path, hello, long = folder / "x.jsonl", json.dumps(HELLO).encode(), b'{"id": "' + b"x" * 100_000_000 + b'"}'
    path.write_bytes(hello + b"\n" + long + b"\n" + hello)
    del long
    tracemalloc.start()
    first, bad, last = read(path)
    assert tracemalloc.get_traced_memory()[1] < 2.2 * checks.MAX_LINE
    assert "longer than 64 MiB" in bad.reason and bad.line == 2
    assert isinstance(first, Sample) and isinstance(last, Sample)
    array = BytesIO(b"[{}, " + b'{"id": "' + b"x" * 10_000_000 + b'"}' + b", {}]")
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    assert [type(item) for item in json_array.array_items(array, limit=2**20)] == [dict, checks.Malformed, dict]
    assert tracemalloc.get_traced_memory()[1] - before < 8 * 2**20
    tracemalloc.stop()
    list_of_lines = jsonl.text_lines(BytesIO(b"12345\n123456\n1234\n123456"), limit=6)
    assert [n if isinstance(t, str) else -n for n, t in list_of_lines] == [1, -2, 3, 4]


def test_items_that_lie_about_their_brackets():
    def items(raw, **more):
        found = json_array.array_items(BytesIO(raw), 3, **more)
        return [item if isinstance(item, dict) else str(item).partition(" ")[0] for item in found]

    assert items(b"[]") == [] and items(b" [ {} ] ") == [{}] and items(b"[{},]") == [{}]
    assert items(b'[{"a": 1}}, {"b": 2}]') == ["not", {"b": 2}]
    assert items(b'[{"a": }, {"b": "]\\""}, 7]') == ["not", {"b": ']"'}, "a"]
    assert items(b"[{} {}, {}]") == ["not", {}]
    assert items(b"[{}] x") == [{}, "there"]
    assert items(b"[{}, {") == items(b"[{}, ") == items(b'[{}, {"a": "\\') == [{}, "the"]
    assert items(b'[{"a": "123456789"}, {}]', limit=8) == ["the", {}]


def test_a_source_that_is_no_collection(folder):
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "letter.txt").write_text("Dear reader")
    (folder / "sub").mkdir()
    (folder / "dict" / "train").mkdir(parents=True)  # as Hugging Face's library saves splits
    (folder / "dict" / "test").mkdir()
    (folder / "z.jsonl.gz").write_bytes(gzip.compress(b"{}"))
    for name, says in {
        "none.json": "no such file", "empty.jsonl": "empty", "letter.txt": "not a format", "red.png": "not a format",
        "sub": "no shards;", "dict": r"no shards, but folders \(test, train\): name one", "x" * 5000: "opened",
        "z.jsonl.gz": "only tar shards are read compressed",
    }.items():  # fmt: skip
        with pytest.raises(DataError, match=says):
            read(folder / name)
    path = formats.write_jsonl(folder / "x.jsonl", [HELLO])
    with pytest.raises(DataError, match=r"unknown format 'lava' \(known: finevision, llava"):
        read(path, "lava")
    with pytest.raises(DataError, match="not a WebDataset shard"):
        list(read(path, "webdataset"))
    (folder / "y.tar").write_bytes(b"")
    with pytest.raises(DataError, match="several kinds"):
        read(folder)


def member(name, data=b"x", **fields):
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data if info.isreg() else b""


DANGERS = [
    member("../up.json"),
    member("a/../../up.json"),
    member("/etc/up.json"),
    member("up.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    member("up.jpg", type=tarfile.LNKTYPE, linkname="one.json"),
    member("up.txt", type=tarfile.FIFOTYPE),
    member("..", type=tarfile.DIRTYPE),
]


@pytest.mark.parametrize("danger", DANGERS, ids=[str(k) for k in range(len(DANGERS))])
def test_a_dangerous_member_costs_its_sample_only(folder, danger):
    members = [*formats.tar_members(folder, [ONE]), danger, *formats.tar_members(folder, [TEXT])]
    path = formats.write_tar(folder / "x.tar", members)
    first, bad, last = read(path)
    assert formats.meaning(first) == formats.expected(folder, ONE)
    assert formats.meaning(last) == formats.expected(folder, TEXT)
    assert bad.line == 2 and "refused" in bad.reason and repr(danger[0].name) in bad.reason
    assert bad.reason.startswith(f"{path}: sample ") and bad.reason.isprintable()


def test_samples_of_a_shard(folder, monkeypatch):
    red = (folder / "red.png").read_bytes()
    members = [
        member("./", type=tarfile.DIRTYPE),
        member("./cap.png", red), member("./cap.txt", b"a square\n"),
        member("named.0.png", red), member("named.json", json.dumps(asks("0.png")).encode()),
        member("listed.png", red), member("listed.json", json.dumps({**asks(), "id": 3}).encode()),
        member("v.1/film.mp4", b"film"), member("v.1/film.txt", b"a film"),
        member("alone.png", red), member("odd.npy", b"1"), member(".hidden", b"1"),
        member("latin.txt", "é".encode("latin-1")), member("big.txt", b"x" * 200),
        member("gone.json", json.dumps({**asks("red.png"), "id": "g"}).encode()), member("bad.json", b"{"),
        member("empty.png", b""),
        member("empty.txt", b"none"), member("words.json", json.dumps(HELLO).encode()),
    ]  # fmt: skip
    path = formats.write_tar(folder / "x.tar", members)
    monkeypatch.setattr(webdataset, "MAX_LINE", 150)
    results = list(read(path))
    said = {r.id: r.reason.partition(": ")[2] if isinstance(r, BadLine) else r.messages for r in results}
    picture = {"type": "image", "image": media_parts(said["cap"])[0]["image"]}
    assert said["cap"] == [{"role": "user", "content": [picture]}, {"role": "assistant", "content": "a square"}]
    assert load_image(picture["image"]).getpixel((0, 0)) == (255, 0, 0)
    assert len(media_parts(said["q7"])) == len(media_parts(said["3"])) == 1
    (film,) = media_parts(said["v.1/film"])
    assert film["type"] == "video" and open(film["video"], "rb").read() == b"film"
    assert said["words"] == [{"role": "user", "content": "hello"}]
    reasons = {
        "alone": "neither a json member", "odd": "neither a json member", "sample-7": "no name before its extension",
        "latin": "not UTF-8", "big": "larger than", "bad": "not JSON", "empty": "is empty",
        "g": "no such member",
    }  # fmt: skip
    for id, reason in reasons.items():
        assert reason in said[id]
    order = "cap q7 3 v.1/film alone odd sample-7 latin big g bad empty words"
    assert [r.id for r in results] == order.split()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_broken_shard_is_never_just_shorter(folder, mode):
    """The tarfile module alone ends in silence at a broken header and at a missing end mark."""
    path = formats.write_tar(folder / "x.tar", formats.tar_members(folder, [ONE, TEXT]))
    whole = path.read_bytes()
    starts = [m.offset for m in tarfile.open(path)]
    for cut in (*starts[1:], starts[-1] + 100, starts[-1] + 1024):
        path.write_bytes(whole[:cut])
        *before, last = read(path)
        assert isinstance(last, BadLine) and "damaged or cut off" in last.reason
    path.write_bytes(whole[: starts[-1]] + b"?" * 512 + whole[starts[-1] + 512 :])
    assert "damaged" in list(read(path))[-1].reason
    path.write_bytes(whole + whole)  # joined shards are all there
    assert [formats.meaning(r)[0] for r in read(path)] == ["one", "text"] * 2
    path.write_bytes(b"\x1f\x8b" + b"x" * 600)
    assert [r.line for r in read(path)] == [1]


def tsv_file(folder, *rows):
    path = folder / "x.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_tables(folder):
    red = base64.b64encode((folder / "red.png").read_bytes()).decode()
    header = ("index", "image", "question", "hint", "A", "B", "answer", "category")
    rows = [
        ("1", red, "Which?", "Look.", "red", "blue", "A", "colour"),
        ("2", "1", "Which?", "", "blue", "red", "B", ""),
        ("3", "9", "Which?", *[""] * 5),
        ("4", red, "short"),
        ("5", "", '"lost quote', *[""] * 5),
        ("6", "", '"two\nlines"', *[""] * 5),
        ("7", f"['{red}', '{red}']", "Two?", *[""] * 5),
    ]
    path = tsv_file(folder, header, *rows)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\n8\t\xff\n")
    one, two, *others = read(path)
    assert one.messages[0]["content"][1]["text"] == "Look.\nWhich?\nA. red\nB. blue"
    assert one.messages[1] == {"role": "assistant", "content": "A"} and one.id == "1"
    assert one.meta == {"A": "red", "B": "blue", "answer": "A", "category": "colour"}
    same = [load_image(media_parts(s.messages)[0]["image"]).tobytes() for s in (one, two)]
    assert same[0] == same[1] and two.messages[0]["content"][1]["text"] == "Which?\nA. blue\nB. red"
    reasons = [r.reason.partition(": ")[2] if isinstance(r, BadLine) else r.id for r in others]
    wanted = ["neither a picture in base64 nor the index", "3 cells in a table of 8", "", "6", "7", "not UTF-8"]
    assert len(reasons) == len(wanted) and all(w in r for w, r in zip(wanted, reasons))
    assert isinstance(others[2], BadLine) and [r.line for r in others if isinstance(r, BadLine)] == [4, 5, 6, 11]
    assert others[3].messages[0]["content"] == "two\nlines" and len(media_parts(others[4].messages)) == 2


def test_a_quote_that_never_ends_costs_one_line(folder, monkeypatch):
    rows = [(str(k), f"q{k}", "a") for k in range(2, 40)]
    path = tsv_file(folder, ("index", "question", "answer"), ("1", '"open', "a"), *rows)
    assert [r.id for r in read(path)] == ["line-2", *(row[0] for row in rows)]
    monkeypatch.setattr(tsv, "MAX_LINE", 60)
    bad, *others = read(path)
    assert "longer than" in bad.reason and len(others) == len(rows)


def test_arrow_tables(folder):
    pyarrow = pytest.importorskip("pyarrow")
    path = formats.write_parquet(folder / "x.parquet", formats.messages_table(folder, [ONE, TEXT] * 4), rows=4)
    whole = path.read_bytes()
    group = pyarrow.parquet.ParquetFile(path).metadata.row_group(0)
    start = group.column(0).dictionary_page_offset or group.column(0).data_page_offset
    path.write_bytes(whole[:start] + b"\xff" * 40 + whole[start + 40 :])
    results = list(read(path))
    assert [type(r) for r in results] == [BadLine] * 4 + [Sample] * 4
    assert [r.line for r in results[:4]] == [1, 2, 3, 4] and results[0].reason.startswith(f"{path}: row 1: ")
    path.write_bytes(whole[:-100])
    (bad,) = read(path)
    assert bad.line == 0 and "cut off" in bad.reason and str(path) in bad.reason
    (folder / "saved").mkdir()
    (folder / "saved" / "state.json").write_text("{}")
    for name in ("data-00000-of-00002.arrow", "data-00001-of-00002.arrow", "cache-1.arrow"):
        formats.write_arrow(folder / "saved" / name, formats.messages_table(folder, [ONE, TEXT]), stream=True)
    assert [s.id for s in read(folder / "saved")] == ["one", "text"] * 2


def test_without_pyarrow_the_message_says_what_to_install(folder, monkeypatch):
    (folder / "x.parquet").write_bytes(b"PAR1" * 4)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"block-diffusion-vlm\[data\]"):
        list(read(folder / "x.parquet"))


def test_loss_flags_and_other_fields_stay(folder):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "loss": False}]
    weighted = [turns[0], {"role": "assistant", "content": "b", "weight": 0}]
    openai = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "red.png"}}]}, weighted[1]]
    records = [{"messages": turns, "channel": "x"}, {"messages": openai}, {"messages": turns, "images": []}]
    first, second, third = read(formats.write_jsonl(folder / "x.jsonl", records))
    assert first.messages == third.messages == turns and first.meta == {"channel": "x"} and third.meta == {}
    assert second.messages[1] == turns[1] and first.id == "line-1"


def test_spelled_answers_stay_spelled_in_every_shape_of_messages(folder):
    answer = {"role": "assistant", "content": "b", "spelled": True}
    parts = {"user": [{"type": "text", "text": "a"}], "url": [{"type": "image_url", "image_url": {"url": "red.png"}}]}
    asked = [{"role": "user", "content": content} for content in ("a", *parts.values())]
    records = [{"messages": [turn, answer]} for turn in asked]
    for sample in read(formats.write_jsonl(folder / "x.jsonl", records)):
        assert sample.messages[1] == answer and "spelled" not in sample.messages[0]


def test_videos_from_bytes_are_kept_within_the_limit():
    store = spool._Spool(10)
    first, second = store.path(b"12345"), store.path(b"54321")
    assert store.path(b"12345") == first
    third = store.path(b"abcd")  # the second is now the oldest
    assert [os.path.exists(p) for p in (first, second, third)] == [True, False, True]
    assert open(store.path(b"54321"), "rb").read() == b"54321"


def test_videos_of_a_worker_go_with_it():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        path = pool.apply(spool.spooled, (b"film",))
        assert open(path, "rb").read() == b"film"
        pool.close()
        pool.join()
    assert not os.path.exists(os.path.dirname(path))


def test_memory_stays_flat(folder):
    """Files of 12 MB, read in 6."""
    long = {"conversations": [{"from": "human", "value": "x" * 12_000}]}
    path = formats.write_jsonl(folder / "x.jsonl", [long] * 1000)
    array = formats.write_array(folder / "x.json", [long] * 1000)
    shard = formats.write_tar(folder / "x.tar", ((f"{k}.txt", b"x" * 12_000) for k in range(1000)))
    for source in (path, array, shard):
        tracemalloc.start()
        assert sum(isinstance(r, Sample) for r in read(source)) == 1000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6 * 2**20


def test_nothing_here_needs_torch():
    code = "import sys, data_pipelines.readers; assert not {'torch', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
