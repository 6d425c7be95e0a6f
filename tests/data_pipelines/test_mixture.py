"""Mixtures: every sample once over ranks and workers, the same order from any place, in every kind of file."""

import json
import logging
import tarfile
from collections import Counter
from io import BytesIO
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines.errors import DataError
from data_pipelines.mixture import Mixture, Source, read_mixture
from data_pipelines.readers import BadLine, read
from data_pipelines.readers.places import Records
from data_pipelines.readers.reading import shards
from data_pipelines.record import Sample

quick = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def record(name: str) -> dict:
    turns = [{"role": "user", "content": f"Ask {name} ü"}, {"role": "assistant", "content": name}]
    return {"id": name, "messages": turns}


def records(prefix: str, n: int) -> list[dict]:
    return [record(f"{prefix}{i}") for i in range(n)]


def write_tar(path, found):
    with tarfile.open(path, "w") as tar:
        for number, item in enumerate(found):
            data = json.dumps(item).encode()
            info = tarfile.TarInfo(f"{number:04}.json")
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    return path


def write_lines(path, found):
    path.write_text("\n\n".join(json.dumps(item, ensure_ascii=False) for item in found) + "\n", "utf-8")
    return path


def write_parquet(path, found):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(found), path, row_group_size=7)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each kind of access, and their samples' ids."""
    folder = tmp_path_factory.mktemp("files")
    paths = {
        "lines": write_lines(folder / "lines.jsonl", records("l", 40)),
        "array": folder / "array.json",
        "groups": write_parquet(folder / "groups.parquet", records("g", 31)),
    }
    paths["array"].write_text(json.dumps(records("a", 25), ensure_ascii=False, indent=1), "utf-8")
    (folder / "shards").mkdir()
    for n in range(3):
        write_tar(folder / "shards" / f"{n}.tar", records(f"t{n}-", 9))
    return {**paths, "shards": folder / "shards"}


def of(files, **settings) -> list[Source]:
    return [Source(str(path), **settings) for path in files.values()]


def ids(found) -> list[str]:
    return [sample.id for _, sample in found]


def everything(files) -> list[str]:
    return sorted(sample.id for path in files.values() for sample in read(path))


def test_two_ranks_of_two_workers_give_every_sample_once(files):
    found = [ids(Mixture(of(files), buffer=8, once=True).samples(shard=shard, shards=4)) for shard in range(4)]
    assert sorted(name for part in found for name in part) == everything(files)
    assert max(map(len, found)) - min(map(len, found)) <= 1
    whole = Mixture(of(files), buffer=8, once=True)
    assert [found[place % 4][place // 4] for place in range(len(everything(files)))] == ids(whole.samples())
    assert whole.length == len(everything(files))


@quick
@given(st.integers(0, 400), st.integers(1, 4), st.sampled_from([1, 5, 64]), st.integers(0, 3))
def test_resumed_anywhere_the_order_is_that_of_an_uninterrupted_run(files, start, n_shards, buffer, seed):
    mixture = Mixture(of(files), seed, buffer)
    shard = start % n_shards
    straight = [(place, s.id) for place, s in islice(mixture.samples(), 440) if place % n_shards == shard]
    resumed = Mixture(of(files), seed, buffer).samples(start, shard, n_shards)
    for place, name in [pair for pair in straight if pair[0] >= start][:30]:
        found, sample = next(resumed)
        assert (found, sample.id) == (place, name)


def test_every_source_ends_an_epoch_before_it_repeats_and_by_default_all_end_together(files):
    total = len(everything(files))
    found = ids(islice(Mixture(of(files), buffer=8).samples(), 2 * total + 8))
    for prefix in "lagt":
        own = [name for name in found if name[0] == prefix]
        size = len({*own})
        assert sorted(own[:size]) == sorted(own[size : 2 * size]) == sorted({*own})
        assert size == len([name for name in everything(files) if name[0] == prefix])
    assert max(Counter(found).values()) <= 3
    assert found[:total] != found[total : 2 * total]


def test_weights_are_shares_and_sources_repeat_at_their_own_pace(files):
    sources = [Source(str(files["lines"]), weight=3), Source("playground:counting", weight=1)]
    found = ids(islice(Mixture(sources, seed=1).samples(), 400))
    kinds = Counter(name.partition("/")[0] if "/" in name else name[0] for name in found)
    assert abs(kinds["l"] - 300) <= 1 and abs(kinds["counting"] - 100) <= 1
    assert Counter(Counter(n for n in found if n[0] == "l").values()).keys() <= {7, 8}  # 300 draws of 40


@pytest.mark.parametrize(
    "strategy, size", [("first:7", 7), ("first:25%", 10), ("random:7", 7), ("random:25%", 10), ("all", 40)]
)
def test_strategies_choose_and_keep_their_choice(files, strategy, size):
    mixture = Mixture([Source(str(files["lines"]), strategy=strategy)], seed=3, buffer=4)
    found = ids(islice(mixture.samples(), 3 * size))
    assert {*found[:size]} == {*found[size : 2 * size]} == {*found[2 * size :]} and len({*found}) == size
    if strategy.startswith("first"):
        assert {*found} == {f"l{i}" for i in range(size)}
    if strategy.startswith("random"):
        assert {*found} != {f"l{i}" for i in range(size)}


def test_a_choice_from_a_stream_or_row_groups_is_as_large(files):
    for name in ("groups", "shards"):
        source = Source(str(files[name]), strategy="random:11")
        found = ids(Mixture([source], buffer=4, once=True).samples())
        assert len({*found}) == len(found) == 11


def test_playground_items_repeat_by_their_place_and_with_first_by_their_number():
    endless = [Source(playground={"counting": 1, "relations": 3}, weight=1)]
    found = [sample for _, sample in islice(Mixture(endless, seed=2).samples(), 40)]
    families = Counter(sample.source for sample in found)
    assert families.keys() == {"playground/counting", "playground/relations"}
    assert families["playground/relations"] > families["playground/counting"]
    place, again = next(Mixture(endless, seed=2).samples(start=17))
    assert place == 17 and again.id == found[17].id and again.meta == found[17].meta
    four = ids(Mixture([Source("playground:counting", strategy="first:4")], once=True).samples())
    assert sorted(four) == [f"counting/{i}" for i in range(4)]


def test_bad_records_have_places_too(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(f"{json.dumps(r)}\n" for r in records("x", 3)) + "{oops\n")
    found = [sample for _, sample in Mixture([Source(str(path))], once=True).samples()]
    assert sorted(type(s).__name__ for s in found) == ["BadLine", "Sample", "Sample", "Sample"]
    (bad,) = [s for s in found if isinstance(s, BadLine)]
    assert bad.line == 4 and f"{path}:4" in bad.reason


JUNK = st.sampled_from(['{"id": "x", "messages": [{"role": "user", "content": "[,{\\""}]}', "{", "[1, 2]",
                        '{"a": "]"}', "ü", "3", '{"id": "é", "messages": []}', "{}}", "", " "])  # fmt: skip


def same(path) -> None:
    """Records by number, in any order, are those that reading gives."""
    straight = list(read(path))
    by_number = Records(shards(path))
    assert len(by_number) == len(straight)
    for number in [*reversed(range(len(straight))), *range(len(straight))]:
        shard, row = by_number.read(number)
        assert shard.sample(row) == straight[number]


@quick
@given(st.lists(JUNK, max_size=6), st.sampled_from(["", "\ufeff"]), st.sampled_from(["]", "] ", "]{}", ",]", ""]))
def test_offsets_find_what_reading_finds_whatever_the_array_holds(tmp_path_factory, items, mark, end):
    path = tmp_path_factory.mktemp("array") / "a.json"
    path.write_text(mark + "[" + ",\n ".join([json.dumps(record("é")), *items]) + end, "utf-8")
    same(path)


@quick
@given(st.lists(JUNK, max_size=6), st.sampled_from(["", "\ufeff"]), st.sampled_from(["\n", "\r\n", "\n \u3000\n"]))
def test_offsets_find_what_reading_finds_whatever_the_lines_hold(tmp_path_factory, items, mark, end):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_bytes((mark + end.join([json.dumps(record("é")), *items])).encode())
    same(path)


def test_row_groups_and_streams_find_what_reading_finds(files):
    same(files["groups"])
    same(files["shards"])


def test_a_stream_says_when_it_is_passed_over_and_an_index_is_kept(files, caplog, monkeypatch):
    with caplog.at_level(logging.WARNING):
        next(Mixture([Source(str(files["lines"]))], buffer=4).samples(start=30))
        assert caplog.messages == []
        next(Mixture([Source(str(files["shards"]))], buffer=4).samples(start=6))
    assert len(caplog.messages) == 1 and "4 records before the next are passed over" in caplog.messages[0]
    caplog.clear()
    with caplog.at_level(logging.WARNING):  # ten epochs of a choice, which begin behind the first records of shards
        epochs = Mixture([Source(str(files["shards"]), strategy="random:3")]).samples()
        assert len({sample.id for _, sample in islice(epochs, 30)}) == 3
    streams = [message.partition(": a stream")[0] for message in caplog.messages]
    assert streams and len(set(streams)) == len(streams)
    monkeypatch.setattr("data_pipelines.readers.places.PLACES", dict.fromkeys(_readers(), _fail))
    assert len(Records(shards(files["lines"]))) == 40  # from the cache


def _readers():
    from data_pipelines.readers.places import PLACES

    return list(PLACES)


def _fail(path):
    raise AssertionError("the index was built again")


def test_a_changed_file_is_indexed_anew(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", records("x", 3))
    assert len(Records(shards(path))) == 3
    write_lines(path, records("x", 5))
    assert len(Records(shards(path))) == 5


def test_yaml_paths_start_at_its_folder(files, tmp_path):
    (tmp_path / "data.jsonl").write_text(json.dumps(record("one")) + "\n")
    recipe = tmp_path / "mix.yaml"
    recipe.write_text("seed: 3\nbuffer: 2\nsources:\n- {path: data.jsonl}\n")
    assert ids(read_mixture(recipe, once=True).samples()) == ["one"]
    recipe.write_text("sources:\n- {path: data.jsonl, weight: 1}\n- {playground: {counting: 1}, weight: 1}\n")
    assert {name.split("/")[0] for name in ids(islice(read_mixture(recipe).samples(), 6))} == {"one", "counting"}


MISTAKES = {
    "unknown key": ("sources:\n- {pat: a}\n", "pat"),
    "no list": ("sources: a\n", "must be a list"),
    "not yaml": ("sources: [", "not YAML"),
    "both": ("sources:\n- {path: a, playground: {counting: 1}}\n", "one of path and playground"),
    "family": ("sources:\n- {path: 'playground:countng', weight: 1}\n", "countng"),
    "strategy": ("sources:\n- {path: a, strategy: 'last:3'}\n", "last:3"),
    "weight": ("sources:\n- {path: a, weight: 0}\n", "must be positive, not 0"),
    "too few": ("sources:\n- {path: one.jsonl, strategy: 'first:2'}\n", "asks for 2 samples of 1"),
    "endless": ("sources:\n- {path: 'playground:counting'}\n", "endless"),
    "some": ("sources:\n- {path: one.jsonl, weight: 1}\n- {path: one.jsonl}\n", "has no weight"),
    "missing": ("sources:\n- {path: gone.jsonl}\n", "no such file"),
    "shares": ("sources:\n- {playground: counting, weight: 1}\n", "families and their shares, not 'counting'"),
    "seed": ("seed: -1\nsources:\n- {path: one.jsonl}\n", "whole number from 0 on, not -1"),
    "seed text": ("seed: abc\nsources:\n- {path: one.jsonl}\n", "whole number from 0 on, not 'abc'"),
    "part of a buffer": ("buffer: 2.5\nsources:\n- {path: one.jsonl}\n", "at least 1, not 2.5"),
    "buffer": ("buffer: 0\nsources:\n- {path: one.jsonl}\n", "at least 1, not 0"),
}


@pytest.mark.parametrize("text, says", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_that_names_the_file(tmp_path, text, says):
    (tmp_path / "one.jsonl").write_text(json.dumps(record("one")) + "\n")
    (tmp_path / "mix.yaml").write_text(text)
    with pytest.raises(DataError, match="mix.yaml") as raised:
        read_mixture(tmp_path / "mix.yaml")
    assert says in str(raised.value) and "\n" not in str(raised.value)


def test_samples_are_those_of_the_reader(files):
    straight = {sample.id: sample for path in files.values() for sample in read(path)}
    for _, sample in Mixture(of(files), once=True).samples():
        assert isinstance(sample, Sample) and sample == straight[sample.id]
