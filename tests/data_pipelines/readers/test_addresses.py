"""Shards at addresses: the same samples as of the files, exact order and resumption, and no command out of data."""

import json
import logging
import shlex
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from itertools import islice
from shutil import which

import pytest
from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.mixture import Mixture, Source, read_mixture
from data_pipelines.readers import BadLine, addresses, read
from data_pipelines.readers.addresses import is_address
from data_pipelines.record import media_parts
from eval.suites import local

pytest.importorskip("webdataset", reason="the extra webdataset is not installed")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Two shards in a folder with a space in its name: a picture and a question each sample."""
    folder = tmp_path_factory.mktemp("data") / "two shards"
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for n in range(5):
                name = f"{shard}{n}"
                turns = [("user", f"<image>What is {name}?"), ("assistant", name)]
                record = {"id": name, "messages": [{"role": role, "content": text} for role, text in turns]}
                picture = BytesIO()
                Image.new("RGB", (4, 4), (50 * n, 99, 200 * shard)).save(picture, "png")
                for kind, data in (("png", picture.getvalue()), ("json", json.dumps(record).encode())):
                    info = tarfile.TarInfo(f"{name}.{kind}")
                    info.size = len(data)
                    tar.addfile(info, BytesIO(data))
    return folder


@pytest.fixture
def web(shards):
    """The folder at an address of this machine."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(shards))
    handler.func.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def told(samples):
    """What a sample says and shows, whatever it was read from."""
    return [
        (s.id, texts(s), [part["image"].convert("RGB").tobytes() for part in media_parts(s.messages)]) for s in samples
    ]


def texts(sample):
    contents = [m["content"] for m in sample.messages]
    return [c if isinstance(c, str) else [part.get("text", part["type"]) for part in c] for c in contents]


def of_files(shards):
    return told([sample for n in range(2) for sample in read(shards / f"{n}.tar")])


def test_every_kind_of_address_gives_the_files_samples(shards, web):
    expected = of_files(shards)
    quoted = shlex.quote(str(shards))
    found = {
        "file": f"file://{shards}/{{0..1}}.tar",
        "pipe": f"pipe:cat {quoted}/0.tar::pipe:gzip -c {quoted}/1.tar",
        "http": f"{web}/{{0..1}}.tar",
    }
    for kind, address in found.items():
        if kind == "http" and which("curl") is None:
            continue
        assert told(read(address)) == expected, kind
        assert told(read(address, "webdataset")) == expected
        assert all(sample.source in addresses.addresses(address) for sample in read(address))


def test_a_mixture_resumes_exactly_and_says_what_it_passes_over(shards, tmp_path, caplog):
    quoted = shlex.quote(str(shards))
    address = f"pipe:cat {quoted}/0.tar::pipe:cat {quoted}/1.tar"
    recipe = tmp_path / "mixture.yaml"
    recipe.write_text(json.dumps({"sources": [{"path": address}], "buffer": 3, "seed": 4}))
    whole = [sample.id for _, sample in islice(read_mixture(recipe).samples(), 25)]
    assert sorted(whole[:10]) == sorted(whole[10:20]) == sorted(name for name, *_ in of_files(shards))
    files = Mixture([Source(str(shards))], seed=4, buffer=3)
    assert whole == [sample.id for _, sample in islice(files.samples(), 25)]
    for start in (1, 4, 7, 13):
        assert [s.id for _, s in islice(read_mixture(recipe).samples(start), 5)] == whole[start : start + 5]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        list(islice(read_mixture(recipe).samples(7), 5))
    assert sum("read to its end, to count" in line for line in caplog.messages) == 2


def test_a_shard_that_fails_or_breaks_off_is_a_bad_sample(shards, tmp_path):
    quoted = shlex.quote(str(shards / "0.tar"))
    *good, bad = read(f"pipe:cat {quoted}; exit 3")
    assert len(good) == 4 and isinstance(bad, BadLine) and "sample '04': " in bad.reason  # or just after it
    assert "ended with status 3" in bad.reason
    (nothing,) = read("pipe:exit 7")
    assert isinstance(nothing, BadLine) and "ended with status 7" in nothing.reason
    *good, bad = read(f"pipe:head -c 3000 {quoted}")
    assert isinstance(bad, BadLine) and "damaged or cut off" in bad.reason and len(good) < 5
    (gone,) = read(f"file://{tmp_path}/gone.tar")
    assert isinstance(gone, BadLine) and "No such file" in gone.reason


def test_what_is_left_before_its_end_is_no_error(shards):
    rows = read(f"pipe:cat {shlex.quote(str(shards / '0.tar'))}; yes")
    assert next(rows).id == "00"
    rows.close()


def test_a_command_in_data_is_a_name_and_is_not_run(shards, tmp_path):
    mark = tmp_path / "ran"
    command = f"pipe:touch {mark}"
    turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "This."}]
    parts = [{"type": "image", "image": command}, {"type": "text", "text": "What?"}]
    records = [
        {"id": "a", "messages": turns, "images": [command]},
        {"id": "b", "messages": [{"role": "user", "content": parts}, turns[1]]},
        {"id": "c", "messages": turns, "images": [f"{tmp_path}/x.png::{command}"]},
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    found = list(read(tmp_path / "data.jsonl"))
    assert len(found) == 3 and all(isinstance(sample, BadLine) for sample in found)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / command.replace("/", "_")).write_bytes((shards / "0.tar").read_bytes())
    with pytest.raises(DataError):
        read(tmp_path / "shards")
    with pytest.raises(DataError, match="a suite's source is a file"):
        local.suite(command, "exact_match")
    assert not mark.exists()


def test_addresses_that_cannot_be_opened_are_refused_at_once(monkeypatch):
    assert not is_address("data/a.tar") and not is_address("playground:attributes")
    with pytest.raises(DataError, match=r"s9://bucket/a.tar: webdataset opens no such address \(known: .*https"):
        read("s9://bucket/a.tar")
    with pytest.raises(DataError, match="a.tar: webdataset opens no such address"):
        read("pipe:cat b.tar::a.tar")
    monkeypatch.setattr(addresses, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"not installed: pip install .*\[webdataset\]"):
        read("https://a.org/x.tar")
