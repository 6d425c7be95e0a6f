"""A trace file holds the run it was given, and nothing in it can become markup.

The oracle for the page is `html.parser`: the elements a page has must be those of a page of harmless tokens.
"""

import base64
import hashlib
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.errors import DataError
from tests.vlm.tiny import greedy, tiny_model
from vlm.cli.trace_page import check_trace_path, write_trace
from vlm.generation.generate import answer
from vlm.generation.request import Request
from vlm.generation.trace import Trace

HOSTILE = ["</script>", "<!--<script>", "<img src=x onerror=alert(1)>", "\"'", "a\nb\r\n", "🙂", "\ufffd", "&lt;",
           "]]>", "${record}", "\u2028", "$rows", "", "\x00", "</td></table>", "\\u003c/script>"]  # fmt: skip
VOID = {"meta", "br", "input", "img"}


def record_of(tokens: list[str], mode: str = "block") -> dict:
    """A run that wrote one token in each pass."""
    steps = [
        {
            "forward": i + 1,
            "written": [[i, token, 0.5]],
            "open": list(range(i + 1, len(tokens))),
            "draft": [[i, token]],
        }
        for i, token in enumerate(tokens)
    ]
    return {"version": 1, "mode": mode, "tokens": tokens, "confidence": [0.5] * len(tokens), "forwards": len(tokens),
            "finish_reason": "stop", "steps": steps}  # fmt: skip


class Page(HTMLParser):
    """Elements in order, attributes, and the text inside each kind of element."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements, self.attributes, self.scripts, self.texts, self.path = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.path.append(tag)
        if tag in ("script", "td", "p", "dd"):
            (self.scripts if tag == "script" else self.texts).append("")

    def handle_endtag(self, tag):
        assert self.path.pop() == tag

    def handle_data(self, data):
        if self.path and self.path[-1] == "script":
            self.scripts[-1] += data
        elif self.path and self.path[-1] in ("td", "p", "dd"):
            self.texts[-1] += data

    @property
    def record(self) -> dict:
        return json.loads(self.scripts[0])

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


def page_of(tmp_path, record: dict, prompt: str = "What?", pictures=()) -> Page:
    write_trace(tmp_path / "t.html", record, prompt, list(pictures))
    page = Page((tmp_path / "t.html").read_text(encoding="utf-8"))
    assert page.path == []
    return page


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_json_round_trip(tmp_path):
    write_trace(tmp_path / "t.json", record_of(HOSTILE), "What\n</script>?", [noise(8, 8)])
    assert json.loads((tmp_path / "t.json").read_text(encoding="utf-8")) == {
        **record_of(HOSTILE),
        "prompt": "What\n</script>?",
    }


def test_the_page_holds_the_same_record_as_the_json_file(tmp_path):
    write_trace(tmp_path / "t.json", record_of(HOSTILE), "What?", [])
    assert page_of(tmp_path, record_of(HOSTILE)).record == json.loads((tmp_path / "t.json").read_text("utf-8"))


def test_hostile_tokens_and_prompts_stay_text(tmp_path):
    plain = page_of(tmp_path, record_of(["a"] * len(HOSTILE)))
    hostile = page_of(tmp_path, record_of(HOSTILE, mode="<b>block"), "".join(HOSTILE))
    assert hostile.elements == plain.elements
    differ = set(hostile.attributes) ^ set(plain.attributes)
    assert differ == set()
    assert "".join(HOSTILE[:4]) in "".join(hostile.texts) and "<b>block" in hostile.texts


pieces = st.lists(st.sampled_from([*HOSTILE, *"<>/&;\"'!-=\\$\n\r\ud800 "]) | st.characters(), max_size=4).map("".join)


@settings(deadline=None, max_examples=60)
@given(st.lists(pieces, max_size=8), pieces)
def test_no_text_breaks_out(tmp_path_factory, tokens, prompt):
    page = page_of(tmp_path_factory.mktemp("t"), record_of(tokens), prompt)
    assert page.record == {**record_of(tokens), "prompt": prompt}
    assert page.elements.count("tr") == len(tokens) + 1 and page.elements.count("script") == 2
    assert page.elements.count("img") == 0 and page.elements.count("td") == 4 * len(tokens)


def test_the_table_tells_pass_and_confidence_without_javascript(tmp_path):
    record = record_of(["red", " cat", "\n"])
    record["confidence"] = [0.25, 1.0, math.nan]
    record["steps"][1]["forward"] = 7
    cells = page_of(tmp_path, record).texts[-12:]
    assert cells == ["1", "red", "1", "25.0%", "2", " cat", "7", "100.0%", "3", "↵", "3", "unknown"]


def test_a_confidence_that_is_no_number_leaves_valid_json(tmp_path):
    record = record_of(["a"])
    record["confidence"], record["steps"][0]["written"] = [math.nan], [[0, "a", math.inf]]
    found = page_of(tmp_path, record).record
    assert found["confidence"] == [None] and found["steps"][0]["written"] == [[0, "a", None]]


def test_an_empty_run_has_a_page(tmp_path):
    page = page_of(tmp_path, record_of([]), "")
    assert page.elements.count("td") == 0 and page.record["tokens"] == []


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "LA", "1", "CMYK"])
def test_pictures_of_every_kind_are_embedded_small_and_decodable(tmp_path, mode):
    pictures = [noise(900, 500).convert(mode), noise(40, 20).convert(mode), noise(3, 2000).convert(mode)]
    sizes = [picture.size for picture in pictures]
    sources = page_of(tmp_path, record_of(["a"]), pictures=pictures).values("src")
    shown = [decoded(source) for source in sources]
    assert [picture.size for picture in shown] == [(320, 178), (40, 20), (1, 320)]
    assert [picture.size for picture in pictures] == sizes, "the caller's pictures are not touched"


def test_a_picture_that_fits_is_shown_as_it_is(tmp_path):
    flat = Image.new("RGB", (64, 48), (200, 30, 40))
    source = page_of(tmp_path, record_of(["a"]), pictures=[flat]).values("src")[0]
    assert np.array_equal(np.asarray(decoded(source).convert("RGB")), np.asarray(flat))


def decoded(source: str) -> Image.Image:
    kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,([A-Za-z0-9+/=]+)", source).groups()
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    picture.load()
    assert picture.format.lower() == kind
    return picture


def test_the_page_loads_nothing_and_runs_one_script(tmp_path):
    page = page_of(tmp_path, record_of(["a"]), pictures=[noise(8, 8)])
    assert not {"link", "iframe", "object", "base", "form"} & set(page.elements)
    assert all(value.startswith("data:") for value in page.values("src") + page.values("href"))
    assert not [key for _, key, _ in page.attributes if key.startswith("on")]
    text = (tmp_path / "t.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\(", text)
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    policy = next(value for value in page.values("content") if "default-src" in value)
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}';" in policy


@pytest.mark.parametrize("name", ["t.txt", "t", "t.html.gz", ".html", "json"])
def test_an_unknown_suffix_is_refused(tmp_path, name):
    for refuse in (check_trace_path, lambda path: write_trace(path, record_of([]), "", [])):
        with pytest.raises(ValueError, match=r"trace file .* must end in \.html or \.json"):
            refuse(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_refused_early(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        check_trace_path(tmp_path / "none" / "t.html")
    check_trace_path(tmp_path / "t.HTML")
    check_trace_path("t.json")


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "t.html").mkdir()
    with pytest.raises(DataError, match=r"trace file .*t\.html cannot be written \("):
        write_trace(tmp_path / "t.html", record_of(["a"]), "What?", [])


@pytest.mark.parametrize("mode", ["block", "ar", "speculative"])
def test_the_record_of_a_real_run(tmp_path, mode):
    """Every token of the answer is in the table, in a pass that the run had."""
    model, processor = tiny_model(scale=4.0)
    tokenizer = processor.tokenizer
    trace = Trace(tokenizer.mask_token_id, lambda token: tokenizer.decode([token]))
    prompt = tokenizer("What color is it?", return_tensors="pt")["input_ids"][0]
    state = answer(model, [Request(prompt)], greedy(mode=mode), on_step=trace)[0]
    page = page_of(tmp_path, trace.record())
    assert page.record == {**trace.record(), "prompt": "What?"}
    cells = page.texts[-4 * len(state.generated) :]
    assert cells[0::4] == [str(n) for n in range(1, len(state.generated) + 1)]
    passes = [int(cell) for cell in cells[2::4]]
    assert set(passes) <= set(range(1, state.forwards + 1)) and passes[0] == 1
    if mode == "ar":
        assert passes == list(range(1, state.forwards + 1))
