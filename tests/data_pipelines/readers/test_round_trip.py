"""Every format gives back the same record; damage costs the records it touches, is reported, and loses no other."""

import json
import random
from io import BytesIO

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from data_pipelines.readers import FORMATS, BadLine, read
from data_pipelines.readers.json_array import array_items
from data_pipelines.record import Sample
from tests.data_pipelines.readers import formats
from tests.data_pipelines.readers.formats import BLUE, CHATS, CLIP, FILES, RED, expected, meaning

NEEDS_ARROW = ("finevision", "parquet", "arrow file", "arrow stream")
CUT = ("JSON array", "webdataset", "webdataset, gzip", "vlmeval", "arrow stream", "llava")
FAST = settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    formats.make_media(folder)
    return folder


@pytest.fixture(params=FILES)
def form(request):
    if request.param in NEEDS_ARROW:
        pytest.importorskip("pyarrow")
    return FILES[request.param]


def plain(letters):
    return letters.filter(lambda s: "<image>" not in s and "<video>" not in s)


TEXT = plain(st.text(min_size=1, max_size=12))
PICTURE = st.sampled_from([RED, BLUE])


def chats(can):
    """Random chats that a format can express; for those that can express any, media stand anywhere."""
    asked = st.tuples(st.lists(PICTURE, max_size=3), TEXT).map(lambda pair: [*pair[0], pair[1]])
    loose = st.lists(st.sampled_from([RED, CLIP, "a", "<img> ", "\n"]), min_size=1, max_size=4).map(merged)
    more = st.lists(st.tuples(asked | loose if can is formats.always else TEXT.map(lambda t: [t]), TEXT), max_size=2)
    pairs = st.tuples(asked | loose if can is formats.always else asked, TEXT)
    system = st.none() | TEXT if can is formats.always else st.none()
    return st.builds(chat, system, pairs, more if can is not formats.one_question else st.just([]))


def chat(system, first, more):
    turns = [turn for said, answer in [first, *more] for turn in (("user", said), ("assistant", [answer]))]
    return ("", system, turns)


def merged(pieces):
    """Neighbouring texts as one: a placeholder's text cannot keep them apart."""
    out = []
    for piece in pieces:
        if isinstance(piece, str) and out and isinstance(out[-1], str):
            out[-1] += piece
        else:
            out.append(piece)
    return out


def test_the_common_set(folder, form):
    can, write = form
    wanted = [chat for chat in CHATS if can(chat)]
    assert len(wanted) >= 2
    path = write(folder, wanted)
    samples = list(read(path))
    assert [meaning(sample) for sample in samples] == [expected(folder, chat) for chat in wanted]
    assert {sample.source for sample in samples} == {str(path)}
    assert [{k: v for k, v in s.meta.items() if k not in ("answer", "history")} for s in samples] == [{}] * len(
        samples
    )


@FAST
@given(data=st.data())
def test_random_records(folder, form, data):
    can, write = form
    drawn = data.draw(st.lists(chats(can), min_size=1, max_size=3))
    wanted = [(f"n{k}", *chat[1:]) for k, chat in enumerate(drawn)]
    assert [meaning(s) for s in read(write(folder, wanted))] == [expected(folder, chat) for chat in wanted]


@pytest.mark.parametrize("name, make", formats.JSON.items())
def test_the_format_may_be_named(folder, name, make):
    named = {"ms-swift": "sharegpt", "parts and lists": "sharegpt", "alpaca": "instruction", "query": "instruction"}
    path = formats.write_jsonl(folder / "named.jsonl", map(make(folder), CHATS))
    format = named.get(name, name.partition(",")[0])
    assert format in FORMATS
    assert [meaning(s) for s in read(path, format)] == [expected(folder, chat) for chat in CHATS]
    wrong = "finevision" if format != "finevision" else "llava"
    assert all(isinstance(r, BadLine) and "texts must be" in r.reason for r in read(path, wrong))


@FAST
@given(seed=st.integers(0, 2**32), damages=st.integers(1, 6), text=st.booleans())
def test_every_damaged_line_is_read_or_reported(folder, seed, damages, text):
    """Any bytes but line ends, anywhere: as many results as lines, and the untouched ones unchanged."""
    rng = random.Random(seed)
    makers = [make(folder) for make in formats.JSON.values()]
    lines = [json.dumps(rng.choice(makers)(rng.choice(CHATS))).encode() for _ in range(6)]
    hurt = [bytearray(line) for line in lines]
    touched = {rng.randrange(6) for _ in range(damages)}
    for k in touched:
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(hurt[k]))
            new = bytes(
                rng.choice(b'{}[]",:\\x0<>') if text else rng.choice([*range(10), *range(11, 256)]) for _ in "xx"
            )
            hurt[k][at : at + rng.randint(0, 3)] = new
    assume(all(line.strip() for line in hurt))
    path = folder / "hurt.jsonl"
    path.write_bytes(b"\n".join(hurt))
    results = list(read(path))
    assert len(results) == 6
    for k, result in enumerate(results):
        assert isinstance(result, Sample if k not in touched else (Sample, BadLine))
        if isinstance(result, BadLine):
            assert (
                result.line == k + 1 and result.reason.startswith(f"{path}:{k + 1}: ") and result.reason.isprintable()
            )


@FAST
@given(
    cut=st.floats(0.02, 0.995), which=st.sampled_from(["JSON array", "webdataset", "vlmeval", "arrow stream", "llava"])
)
def test_a_file_cut_off_gives_what_comes_before_the_cut_and_says_so(folder, cut, which):
    if which in NEEDS_ARROW:
        pytest.importorskip("pyarrow")
    can, write = FILES[which]
    wanted = [chat for chat in CHATS if can(chat)]
    path = write(folder, wanted)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(40, int(cut * len(whole.rstrip(b"\0"))))])
    *before, last = read(path)
    if which in ("llava", "vlmeval") and isinstance(last, Sample):  # cut between two lines, or inside a cell
        before = before if which == "vlmeval" else [*before, last]
    else:
        assert isinstance(last, BadLine) and last.reason.isprintable()
    if which == "vlmeval":  # a cell cut off is reported line by line
        before = [result for result in before if isinstance(result, Sample)]
    assert [meaning(s) for s in before] == [expected(folder, chat) for chat in wanted[: len(before)]]


@FAST
@given(data=st.data(), chunk=st.integers(1, 40))
def test_an_array_is_read_whatever_the_window(data, chunk):
    value = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    )
    items = data.draw(st.lists(st.dictionaries(st.text(max_size=4), value, max_size=3), max_size=5))
    indent, ascii_only = data.draw(st.sampled_from([None, 0, 2])), data.draw(st.booleans())
    raw = ("  \n" + json.dumps(items, indent=indent, ensure_ascii=ascii_only) + "\n ").encode()
    assert list(array_items(BytesIO(b"\xef\xbb\xbf" * ascii_only + raw), chunk)) == items


def test_formats_mix_in_one_file(folder):
    makers = [make(folder) for make in formats.JSON.values()]
    records = [make(CHATS[k % len(CHATS)]) for k, make in enumerate(makers)]
    path = formats.write_jsonl(folder / "mixed.jsonl", records)
    assert [meaning(s) for s in read(path)] == [expected(folder, CHATS[k % len(CHATS)]) for k in range(len(makers))]
