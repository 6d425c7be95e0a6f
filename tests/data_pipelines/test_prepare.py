"""Prepared shards read back to the records they were made of, whoever makes them; what is bad is listed."""

import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data_pipelines import prepare as command
from data_pipelines.media import open_media
from data_pipelines.preparation import Preparation, stretches
from data_pipelines.prepare import main, prepare
from data_pipelines.ray_pool import everywhere, outcome_of
from data_pipelines.readers import BadLine, read
from data_pipelines.readers.places import Records
from data_pipelines.readers.reading import shards
from data_pipelines.record import media_parts


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def ask(*content, answer="Yes.", **said) -> dict:
    return {"messages": [{"role": "user", "content": list(content)}, {"role": "assistant", "content": answer}], **said}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def collection(folder: Path) -> Path:
    """Every kind of medium that a record may name, and samples without any."""
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(30, 20).save(folder / "turned.jpg", exif=exif)
    photo(8, 8).save(folder / "plain.ppm")  # a kind that shards have under its own name in other collections only
    photo(50, 40).quantize(16).save(folder / "palette.png")
    clip = [photo(12, 10, seed) for seed in range(3)]
    clip[0].save(folder / "clip.gif", save_all=True, append_images=clip[1:])
    (folder / "frames").mkdir()
    for number, frame in enumerate(clip):
        frame.save(folder / "frames" / f"{number}.png")
    file = io.BytesIO()
    photo(9, 7).save(file, "WEBP", lossless=True)
    inline = {"type": "image", "image": {"bytes": None, "path": "plain.ppm"}}
    records = [
        ask({"type": "image", "image": "turned.jpg"}, text("Ça va <image>?"), id="a", level=3, tags=["x", None]),
        ask({"type": "image", "image": "palette.png"}, text("and"), inline, id="b"),
        ask({"type": "video", "video": "clip.gif"}, text("moves?"), id="c"),
        ask({"type": "video", "video": "frames", "max_frames": 2}, text("again?")),
        ask({"type": "video", "video": ["frames/2.png", "turned.jpg"]}, {"type": "image", "image": "turned.jpg"}),
        {"messages": [{"role": "system", "content": "Be brief."},
                      {"role": "user", "content": [text("no <image> here")]},
                      {"role": "assistant", "content": "Hm.", "loss": False}, {"role": "user", "content": "Sure?"},
                      {"role": "assistant", "content": "Yes."}], "id": "text"},
        {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}], "id": "strings"},
    ]  # fmt: skip
    lines = [*map(json.dumps, records)]
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return folder / "data.jsonl"


def facts(sample) -> tuple:
    """A sample without its place: texts, kinds and settings of parts, pixels of media, its own fields."""
    turns = []
    for message in sample.messages:
        content = message["content"]
        parts = [text(content)] if isinstance(content, str) else content
        bare = [{key: value for key, value in part.items() if key not in ("image", "video")} for part in parts]
        turns.append({**message, "content": bare})
    pixels = [
        [(frame.size, frame.convert("RGB").tobytes()) for frame in (item if isinstance(item, list) else [item])]
        for item in open_media(sample.messages)
    ]
    meta = {key: value for key, value in sample.meta.items() if key not in ("sizes", "tokens")}
    return turns, pixels, meta


def prepared(source: Path, output: Path, workers: int = 1, **changes):
    return prepare(Preparation(str(source), str(output), **changes), workers)


def test_prepared_shards_read_back_to_the_same_records(tmp_path):
    source, output = collection(tmp_path), tmp_path / "out"
    outcome = prepared(source, output, per_shard=4)
    assert not outcome.bad and sorted(p.name for p in output.iterdir()) == ["000000000.tar", "000000004.tar"]
    assert outcome.counts["samples"] == 7 and (outcome.counts["images"], outcome.counts["videos"]) == (4, 3)
    before, after = list(read(source)), list(read(output))
    assert [facts(s) for s in after] == [facts(s) for s in before]
    assert [s.id for s in after] == [s.id for s in before]
    for sample in after:
        media = open_media(sample.messages)
        assert sample.meta.get("sizes", []) == [len(m) if isinstance(m, list) else list(m.size) for m in media]
    again = prepared(output, tmp_path / "again", per_shard=3)  # what was prepared can be prepared
    assert not again.bad and [facts(s) for s in read(tmp_path / "again")] == [facts(s) for s in before]


def test_media_are_copied_byte_for_byte(tmp_path):
    source = collection(tmp_path)
    prepared(source, tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "000000000.tar") as tar:
        found = {name: tar.extractfile(name).read() for name in tar.getnames()}
    assert found["000000000.0.jpg"] == (tmp_path / "turned.jpg").read_bytes()
    assert found["000000002.0.gif"] == (tmp_path / "clip.gif").read_bytes()
    assert found["000000003.2.png"] == (tmp_path / "frames" / "2.png").read_bytes()


def test_any_number_of_workers_gives_the_same_bytes(tmp_path):
    source = collection(tmp_path)
    outcomes = [prepared(source, tmp_path / str(n), n, per_shard=2) for n in (1, 2)]
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / str(n)).iterdir()} for n in (1, 2))
    assert one == two and len(one) == 4 and outcomes[0] == outcomes[1]


def test_large_pictures_are_shrunk_and_keep_their_shape(tmp_path):
    source = collection(tmp_path)
    prepared(source, tmp_path / "out", max_pixels=300)
    for before, after in zip(read(source), read(tmp_path / "out")):
        for part, was, now in zip(
            media_parts(before.messages), open_media(before.messages), open_media(after.messages)
        ):
            if part["type"] == "image" and was.width * was.height > 300:
                assert 200 < now.width * now.height <= 300
                assert abs(now.width / now.height - was.width / was.height) < 0.15
            elif part["type"] == "image":
                assert now.tobytes() == was.tobytes()
    photo(4000, 1).save(tmp_path / "strip.png")
    (tmp_path / "strip.jsonl").write_text(json.dumps(ask({"type": "image", "image": "strip.png"})))
    prepared(tmp_path / "strip.jsonl", tmp_path / "strips", max_pixels=300)
    (sample,) = read(tmp_path / "strips")
    assert open_media(sample.messages)[0].size == (300, 1)


def test_pictures_in_tables_and_shards_keep_their_bytes(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = io.BytesIO()
    photo(33, 21).save(file, "JPEG")
    said = [{"user": "What?", "assistant": "Noise."}]
    table = pyarrow.Table.from_pylist([{"images": [{"bytes": file.getvalue(), "path": None}], "texts": said}] * 3)
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    outcome = prepared(tmp_path / "t.parquet", tmp_path / "out", per_shard=2)
    assert not outcome.bad and outcome.counts["shards"] == 2
    assert [facts(s) for s in read(tmp_path / "out")] == [facts(s) for s in read(tmp_path / "t.parquet")]
    with tarfile.open(tmp_path / "out" / "000000002.tar") as tar:
        assert tar.extractfile("000000002.0.jpg").read() == file.getvalue()


def count_characters(model: str | None):
    """A stand-in for a token counter."""
    return lambda messages, sizes: (
        int(model or 1) * len(str(messages))
        + sum(size if isinstance(size, int) else size[0] * size[1] for size in sizes)
    )


def test_token_counts_come_from_what_the_caller_names(tmp_path, monkeypatch):
    module = ModuleType("counters")
    module.characters = count_characters
    monkeypatch.setitem(sys.modules, "counters", module)
    source = collection(tmp_path)
    outcome = prepared(source, tmp_path / "out", count="counters:characters", model="2")
    tokens = [sample.meta["tokens"] for sample in read(tmp_path / "out")]
    sizes = [sample.meta.get("sizes", []) for sample in read(tmp_path / "out")]
    expected = [count_characters("2")(sample.messages, size) for sample, size in zip(read(source), sizes)]
    assert tokens == expected and outcome.counts["tokens"] == sum(tokens) and outcome.longest == max(tokens)


def test_bad_samples_are_listed_and_left_out(tmp_path, capsys):
    source = collection(tmp_path)
    whole = (tmp_path / "palette.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with source.open("a") as file:
        file.write(json.dumps(ask({"type": "image", "image": "cut.png"}, id="cut")) + "\n{broken\n")
    status = main([str(source), "--output", str(tmp_path / "out"), "--workers", "1"])
    said = capsys.readouterr().out
    assert status == 1 and "bad samples: 2" in said
    assert "data.jsonl:8: sample 'cut':" in said and "cut.png" in said and "data.jsonl:9" in said
    assert len(list(read(tmp_path / "out"))) == 7


def test_fields_that_would_not_come_back_are_told(tmp_path, capsys):
    record = ask(text("?"), conversations="about it", empty=[], fine=1)
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    assert (
        main([str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "out"), "--format", "messages", "--workers", "1"])
        == 0
    )
    said = capsys.readouterr().out
    assert "field 'conversations' left out of 1 samples" in said and "field 'empty' left out" in said
    (sample,) = read(tmp_path / "out")
    assert not isinstance(sample, BadLine) and sample.meta == {"fine": 1}


def test_a_stream_is_one_stretch_and_a_seekable_source_many(tmp_path):
    source = collection(tmp_path)
    task = Preparation(str(source), str(tmp_path / "out"), per_shard=4)
    assert stretches(task) == [(0, 4), (4, 7)]
    prepare(task)
    tars = Preparation(str(tmp_path / "out"), str(tmp_path / "x"), per_shard=1)
    assert stretches(tars) == [(0, 4), (4, 7)] and len(Records(shards(tars.source))) == 7


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ray"], 'Ray Data: pip install "block-diffusion-vlm[ray]"'),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--workers", "1", "--count", "no_such_module:x"], "--count no_such_module:x: no token counter"),
        (["--workers", "1", "--count", "json:no_such_name"], "no token counter"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch, arguments, says):
    monkeypatch.setitem(sys.modules, "ray", None)  # not installed
    assert main([str(collection(tmp_path)), "--output", str(tmp_path / "out"), *arguments]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and says in said


def test_a_folder_that_holds_shards_is_not_written_into(tmp_path, capsys):
    source = collection(tmp_path)
    prepared(source, tmp_path / "out")
    assert main([str(source), "--output", str(tmp_path / "out"), "--workers", "1"]) == 2
    assert "holds shards already" in capsys.readouterr().err


def test_what_ray_is_sent_is_names_and_data(tmp_path, monkeypatch):
    """With a stand-in for the calls of Ray that are used; what it is sent goes through a pickle, as there."""

    class Table:
        def __init__(self, rows):
            self.rows = rows

        def map(self, function):
            assert function.func.__module__ == "data_pipelines.ray_pool"  # not __main__, which workers do not have
            return Table([pickle.loads(pickle.dumps(function))(row) for row in self.rows])

        def iter_rows(self):
            return iter(self.rows)

    settings = SimpleNamespace(execution_options=SimpleNamespace())
    data = SimpleNamespace(
        from_items=lambda rows, override_num_blocks: Table(rows),
        DataContext=SimpleNamespace(get_current=lambda: settings),
    )
    stand_in = SimpleNamespace(
        data=data, is_initialized=lambda: True, exceptions=SimpleNamespace(RayError=KeyboardInterrupt)
    )
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    monkeypatch.setitem(sys.modules, "ray.data", data)
    source = collection(tmp_path)
    local = prepared(source, tmp_path / "local", per_shard=2)
    on_ray = prepare(Preparation(str(source), str(tmp_path / "ray"), per_shard=2), on_ray=True)
    assert on_ray == local and command.report(on_ray, False) == command.report(local, False)
    assert settings.execution_options.preserve_order
    assert same_shards(tmp_path / "local", tmp_path / "ray") == 4
    source.unlink()
    (row,) = Table([{"first": 0, "stop": 2}]).map(partial(outcome_of, Preparation(str(source), str(tmp_path)))).rows
    assert "no such file" in json.loads(row["outcome"])["failed"]


def test_paths_for_other_machines_do_not_depend_on_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    task = everywhere(Preparation("a.json", "out", media_root="pictures", model="weights", count="a:b"))
    assert task == Preparation(
        str(tmp_path / "a.json"), str(tmp_path / "out"), None, str(tmp_path / "pictures"), 1000, None, "a:b",
        str(tmp_path / "weights"),
    )  # fmt: skip
    assert everywhere(Preparation("a", "b", model="a name")).model == "a name"


def same_shards(one: Path, other: Path) -> int:
    """How many shards two folders hold, all of them the same."""
    one, other = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in (one, other))
    assert one == other
    return len(one)


@pytest.mark.slow
def test_the_command_on_ray_itself(tmp_path):
    """As a user runs it, so that its own module is ``__main__``; the local pool is the oracle."""
    pytest.importorskip("ray.data")
    source = collection(tmp_path)
    with source.open("a") as file:
        file.write("{broken\n")
    outcome = prepared(source, tmp_path / "local", per_shard=3)
    found = subprocess.run(
        [sys.executable, "-m", "data_pipelines.prepare", source.name, "--output", "ray", "--per-shard", "3", "--ray"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1, found.stderr[-2000:]
    assert same_shards(tmp_path / "local", tmp_path / "ray") == 3
    assert [facts(s) for s in read(tmp_path / "ray")] == [facts(s) for s in read(source) if not isinstance(s, BadLine)]
    assert found.stdout == command.report(outcome, False) + "\n"
