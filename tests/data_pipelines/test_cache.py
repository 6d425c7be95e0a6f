"""The media cache: the same pixels from it as from the file, whoever else writes, whatever became of an entry."""

import os
import time
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.cache import SHARE, MediaCache
from data_pipelines.errors import DataError
from data_pipelines.media import open_media
from data_pipelines.record import image_part, video_part
from data_pipelines.video import Clip

MEGABYTE = 2**20


def noise(seed: int, side: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8))


def same(one: Clip, other: Clip) -> bool:
    return one.times == other.times and [f.tobytes() for f in one] == [f.tobytes() for f in other]


def entries(cache: MediaCache):
    return sorted(cache.folder.glob("??/*"))


def refuses() -> Clip:
    raise AssertionError("decoded again")


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4), st.integers(0, 9), st.booleans()
)
def test_an_entry_reads_back_as_it_was_written(tmp_path_factory, sizes, seed, timed):
    folder = tmp_path_factory.mktemp("cache")
    (folder / "a").write_bytes(b"content")
    draw = np.random.default_rng(seed)
    frames = [Image.fromarray(draw.integers(0, 256, (h, w, 3)).astype(np.uint8)) for w, h in sizes]
    clip = Clip(frames, draw.random(len(frames)).tolist() if timed else None)
    cache = MediaCache(folder / "kept", MEGABYTE)
    assert cache.clip(folder / "a", "some", lambda: clip) is clip
    assert same(cache.clip(folder / "a", "some", refuses), clip)
    assert same(MediaCache(folder / "kept", MEGABYTE).clip(folder / "a", "some", refuses), clip)


def test_content_and_sampling_name_an_entry_not_the_path(tmp_path):
    cache = MediaCache(tmp_path / "kept", MEGABYTE)
    (tmp_path / "a").write_bytes(b"one")
    first = cache.clip(tmp_path / "a", "x", lambda: Clip([noise(1)]))
    (tmp_path / "copy").write_bytes(b"one")
    assert same(cache.clip(tmp_path / "copy", "x", refuses), first)
    other = cache.clip(tmp_path / "a", "y", lambda: Clip([noise(2)]))
    assert not same(other, first)
    (tmp_path / "a").write_bytes(b"two!")
    assert not same(cache.clip(tmp_path / "a", "x", lambda: Clip([noise(3)])), first)
    assert len(entries(cache)) == 3


def test_folders_and_lists_are_named_by_their_pictures(tmp_path):
    cache = MediaCache(tmp_path / "kept", MEGABYTE)
    (tmp_path / "frames").mkdir()
    for i in range(3):
        noise(i).save(tmp_path / "frames" / f"{i}.png")
    clip = cache.clip(tmp_path / "frames", "x", lambda: Clip([noise(9)]))
    paths = sorted((tmp_path / "frames").iterdir())
    assert same(cache.clip(paths, "x", refuses), clip)
    with pytest.raises(AssertionError, match="again"):
        cache.clip(paths[::-1], "x", refuses)
    with pytest.raises(AssertionError, match="again"):
        cache.clip([*paths, noise(1)], "x", refuses)  # a picture in memory
    noise(7).save(paths[1])
    with pytest.raises(AssertionError, match="again"):
        cache.clip(tmp_path / "frames", "x", refuses)


def test_media_from_the_cache_are_those_of_the_files(tmp_path):
    noise(1, 30).save(tmp_path / "a.jpg")
    pictures = [noise(i, 12).quantize(32) for i in range(5)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=500)
    parts = [
        image_part(tmp_path / "a.jpg"),
        {**video_part(tmp_path / "a.gif"), "fps": 1},
        video_part(tmp_path / "a.gif"),
    ]
    messages = [{"role": "user", "content": [*parts, image_part(noise(4)), video_part([noise(5)])]}]
    plain, cache = open_media(messages), MediaCache(tmp_path / "kept", MEGABYTE)
    for _ in range(2):
        found = open_media(messages, cache=cache)
        assert found[0].tobytes() == plain[0].tobytes() and found[0].size == (30, 30)
        assert all(
            same(one, other) for one, other in zip((found[1], found[2], found[4]), (plain[1], plain[2], plain[4]))
        )
    assert found[1].times == [0.0, 1.0, 2.0] and len(found[2]) == 5
    assert len(entries(cache)) == 3


def test_an_entry_that_was_damaged_is_decoded_again(tmp_path):
    cache = MediaCache(tmp_path / "kept", MEGABYTE)
    (tmp_path / "a").write_bytes(b"one")
    clip = Clip([noise(1), noise(2)], [0.0, 1.5])
    cache.clip(tmp_path / "a", "x", lambda: clip)
    (path,) = entries(cache)
    whole = path.read_bytes()
    flipped = whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:]
    for damaged in (b"", whole[:-1], whole[:10], flipped, b"\0" * len(whole), b'{"crc": 0}\n', b"[]\n", whole + b"\0"):
        path.write_bytes(damaged)
        assert cache.clip(tmp_path / "a", "x", lambda: clip) is clip
        assert path.read_bytes() == whole
    assert same(cache.clip(tmp_path / "a", "x", refuses), clip)


def fill(folder, limit: int, numbers, side: int = 32) -> MediaCache:
    cache = MediaCache(folder / "kept", limit)
    for i in numbers:
        if not (folder / f"{i}").exists():
            (folder / f"{i}").write_bytes(str(i).encode())
        cache.clip(folder / f"{i}", "x", lambda i=i: Clip([noise(i, side)]))
    return cache


def size_of(cache: MediaCache) -> int:
    return sum(path.stat().st_size for path in entries(cache))


def test_the_oldest_entries_make_room(tmp_path):
    limit = 40 * 3200
    cache = fill(tmp_path, limit, range(100))
    assert limit // 2 < size_of(cache) <= limit
    kept = []
    for i in range(100):
        try:
            cache.clip(tmp_path / f"{i}", "x", refuses)
            kept.append(i)
        except AssertionError:
            pass
    assert kept == list(range(100 - len(kept), 100))


def test_what_is_too_large_is_given_and_not_kept(tmp_path):
    cache = fill(tmp_path, SHARE * 3200, [1], side=40)
    assert entries(cache) == []


def test_a_dead_processs_unfinished_entry_goes_and_a_living_ones_stays(tmp_path):
    cache = MediaCache(tmp_path / "kept", MEGABYTE)
    (cache.folder / "ab").mkdir()
    for name, age in (("dead", 7200), ("alive", 0)):
        path = cache.folder / "ab" / f"{name}.partial"
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    fill(tmp_path, MEGABYTE, [1])
    assert [p.name for p in entries(cache) if p.suffix == ".partial"] == ["alive.partial"]


def _write_and_check(folder, start: int) -> None:
    cache = fill(folder, 40 * 3200, [*range(start, start + 60), *range(60)])
    for i in range(120):
        assert same(cache.clip(folder / f"{i}", "x", lambda i=i: Clip([noise(i, 32)])), Clip([noise(i, 32)]))


def test_two_processes_share_a_folder_and_its_limit(tmp_path):
    for i in range(120):
        (tmp_path / f"{i}").write_bytes(str(i).encode())
    other = get_context("fork").Process(target=_write_and_check, args=(tmp_path, 60))
    other.start()
    _write_and_check(tmp_path, 0)
    other.join()
    assert other.exitcode == 0
    cache = MediaCache(tmp_path / "kept", 40 * 3200)
    assert size_of(cache) <= cache.max_bytes and all(p.suffix == ".clip" for p in entries(cache))


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(tmp_path, monkeypatch, caplog):
    cache = MediaCache(tmp_path / "kept", MEGABYTE)
    (tmp_path / "a").write_bytes(b"one")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data_pipelines.cache.os.replace", full)
    clip = Clip([noise(1)])
    assert cache.clip(tmp_path / "a", "x", lambda: clip) is clip
    assert "No space left" in caplog.text and entries(cache) == []


def test_a_folder_that_cannot_be_one_is_refused(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for folder, limit, says in ((tmp_path / "file", 9, "cannot hold a media cache"), (tmp_path / "f", 0, "positive")):
        with pytest.raises(DataError, match=says) as caught:
            MediaCache(folder, limit)
        assert str(folder) in str(caught.value)


def test_errors_are_those_of_the_file(tmp_path):
    cache = MediaCache(tmp_path / "kept", MEGABYTE)
    (tmp_path / "bad.png").write_text("words")
    for name, says in (("bad.png", "not an image"), ("gone.png", "no such file"), ("nul\0.png", "png")):
        with pytest.raises(DataError, match=says):
            open_media([{"role": "user", "content": [image_part(str(tmp_path / name))]}], cache=cache)
    assert entries(cache) == []
