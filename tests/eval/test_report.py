"""Reports and comparisons of runs whose answers are chosen by hand: numbers, pictures, a page that stands alone."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from eval.__main__ import main
from eval.compare import differences
from eval.document import Card, Heading, Table, Text, to_html, to_markdown
from eval.output import continued, load
from eval.plots import against_speed
from eval.record import ItemRecord, RunRecord
from eval.report import report
from eval.speed import curve
from eval.suites import playground
from eval.suites.playground import question
from eval.summary import rows, summary, table, totals

FAMILIES = ("attributes", "describe", "video")
EVIL = '<img src="http://x.invalid/a.png"><script>alert(1)</script> | `a` \x00'
RUN = RunRecord("playground", {}, "tiny", "0123", {"mode": "block", "quantize": None}, 6, 1, 2)


def said(family, index, right):
    """The expected answer, or one that is wrong in a known way."""
    asked = question(family, 1, index)
    if right:
        return asked.expected
    if family == "describe":
        return re.sub(r"\b(small|large)\b", "small", asked.expected.split(". ")[0])
    return EVIL if index == 1 else "mauve"


def record(family, index, right=True, tokens=6):
    asked = question(family, 1, index)
    answer = said(family, index, right)
    value, counts = playground.score(family, answer, asked.expected)
    metric = playground.suite(1).metrics[family]
    cost = (tokens, 3, 0.1, 0.2, 0.5, "end")
    return ItemRecord(family, index, asked.question, answer, asked.expected, metric, value, counts, *cost)


def written(directory, records, run=RUN):
    with continued(directory, run) as (_, append):
        append(records)
    return directory


def items(wrong=(0, 1, 3), tokens=6):
    return [record(family, index, index not in wrong, tokens) for family in FAMILIES for index in range(6)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of a run in which items 0, 1 and 3 of each family are wrong, and item 5 of one was never asked."""
    records = items()
    records[5] = replace(records[5], answer="", score=0.0, tokens=0, forwards=0, error="a.tsv:7: not base64")
    directory = written(tmp_path_factory.mktemp("run"), records)
    return records, report(directory)


class Page(HTMLParser):
    """Every tag in order with its attributes; text by the tag it stands in."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts = [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag  # nothing is left open, nothing closed twice

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)


def test_the_page_parses_and_needs_nothing_from_elsewhere(page):
    text = page[1].read_text(encoding="utf-8")
    parsed = Page(text)
    assert parsed.open == [] and "\x00" not in text
    assert {"script", "link", "iframe", "object", "base", "a"}.isdisjoint(tag for tag, _ in parsed.tags)
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "data", "action", "background", "style"):
            assert name not in attributes or (tag == "img" and attributes[name].startswith("data:image/"))
    assert "url(" not in text and "@import" not in text
    [policy] = [a["content"] for t, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_the_plot_is_a_drawing_that_needs_nothing_either(page):
    sources = [a["src"] for t, a in Page(page[1].read_text(encoding="utf-8")).tags if t == "img"]
    plots = [s for s in sources if s.startswith("data:image/svg+xml")]
    assert len(plots) == 2  # scores, and score against speed
    for plot in plots:
        tree = ElementTree.fromstring(base64.b64decode(plot.partition(",")[2]))
        links = [v for e in tree.iter() for k, v in e.attrib.items() if k.endswith("href")]
        assert all(link.startswith("#") for link in links)
        assert not list(tree.iter("{http://www.w3.org/2000/svg}image"))


def test_wrong_answers_come_with_their_own_pictures(page):
    """Attributes' wrong items are 0, 1 and 3; their pictures are those of the held-out stream, scaled down."""
    sources = [a["src"] for t, a in Page(page[1].read_text(encoding="utf-8")).tags if t == "img"]
    shown = [Image.open(io.BytesIO(base64.b64decode(s.partition(",")[2]))) for s in sources if "image/png" in s]
    for index in (0, 1, 3):
        made = question("attributes", 1, index).media[0].convert("RGB")
        made.thumbnail((240, 240))
        assert any(picture.size == made.size and np.array_equal(picture, made) for picture in shown)
    assert len(shown) == 3 + 3 + 3 * 4  # one picture an item, four frames a video


def test_tables_say_what_the_records_say(page):
    records, path = page
    texts = Page(path.read_text(encoding="utf-8")).texts
    markdown = (path.parent / "report.md").read_text(encoding="utf-8")
    for line in rows(records):
        assert set(line) - {""} <= set(texts["td"])
        assert "| " + " | ".join(line) + " |" in markdown
    assert "a.tsv:7: not base64" in texts["td"] and "a.tsv:7: not base64" in markdown
    assert summary(records)["attributes"]["not_asked"] == 1
    assert summary(records)["attributes"]["score"] == round(100 * 2 / 6, 1)
    total = totals(records)
    assert total["seconds"] == 0.5 * 18 and total["forwards"] == 3 * 17 and total["tokens"] == 6 * 17
    means = [line["score"] for line in summary(records).values()]
    assert total["score"] == pytest.approx(sum(means) / 3, abs=0.1) and total["low"] <= total["score"] <= total["high"]
    assert "small" in texts["td"] and "large" in texts["td"]  # sizes that were confused


def test_what_was_followed_is_shown_by_its_passes(tmp_path):
    steps = [{"forward": 1, "written": []}, {"forward": 2, "written": [[0, "a", 0.9], [2, "<c", 1.0]]}]
    steps.append({"forward": 3, "written": [[1, " b", 0.5]]})
    trace = {"steps": steps, "tokens": ["a", " b", "<c"], "confidence": [0.9, None, 1.0]}
    path = report(written(tmp_path / "run", [replace(record("attributes", 0), trace=trace)]))
    parsed = Page(path.read_text(encoding="utf-8"))
    spans = [a for t, a in parsed.tags if t == "span"]
    assert [a["class"] for a in spans] == ["p2", "p3", "p2"] and parsed.texts["span"] == ["a", " b", "<c"]
    assert [a["title"] for a in spans] == ["pass 2, 90 % sure", "pass 3, –", "pass 2, 100 % sure"]
    assert [t for t, _ in parsed.tags].count("img") == 2  # the plot, and the item's picture
    assert r"By pass: 2: a\<c · 3: b" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")


def test_runs_that_differ_in_pace_only_lie_on_one_curve(tmp_path):
    settings = [{"mode": "block", "threshold": 0.5}, {"mode": "block", "threshold": 0.9}, {"mode": "ar"}]
    runs = [replace(RUN, settings=own) for own in settings]
    points = [("a", 1.0, 50.0, 40.0, 60.0), ("b", 2.0, 40.0, 30.0, 50.0), ("c", 3.0, 40.0, 30.0, 50.0)]
    curves = list(map(curve, runs))
    assert curves[0] == curves[1] != curves[2]
    joined = against_speed(points, "score", curves)
    assert len(joined) > len(against_speed(points, "score")) and joined == against_speed(points, "score", curves)


def test_other_runs_stand_beside_one_in_the_plot_of_speed(tmp_path, capsys):
    """Over the items that all hold; runs of other items are refused."""
    a, longer = written(tmp_path / "a", items()[:4]), written(tmp_path / "b", items((1, 3), tokens=12))
    assert main(["report", str(a), str(longer)]) == 0
    text = (a / "report.md").read_text(encoding="utf-8")
    assert "| a | 25.0 |" in text and "| b | 50.0 |" in text  # items 0 to 3, of which b has two right
    assert re.search(r"\| b \| 50.0 \| [^|]* \| 3.0 \| 4.0 \| 24.0 \|", text) and "Over the 4 items" in text
    namesake = written(tmp_path / "elsewhere" / "a", items((2,))[:4])
    assert main(["report", str(a), str(namesake)]) == 0
    assert f"| {namesake} | 75.0 |" in (a / "report.md").read_text(encoding="utf-8").replace("\\_", "_")
    other = written(tmp_path / "c", items(), replace(RUN, seed=2))
    capsys.readouterr()
    apart = written(tmp_path / "d", items()[4:])
    for wrong, says in ((other, "the runs differ in seed: 1 and 2"), (apart, "the runs have no item in common")):
        for command in ("report", "compare"):
            assert main([command, str(a), str(wrong)]) == 2
            assert says in (err := capsys.readouterr().err) and err.count("\n") == 1


def test_grids_stay_grids():
    card = Card("t", [], "Solve\n1 _\n_ 1", "1 2\n2 1", "a\x00\n<b>")
    text = to_html("t", [card])
    assert "Solve\n1 _\n_ 1</dd>" in text and "1 2\n2 1</dd>" in text and "&lt;b&gt;" in text and "\x00" not in text


def test_the_same_run_gives_the_same_page(page):
    before = page[1].read_bytes()
    report(page[1].parent)
    assert page[1].read_bytes() == before


def test_confusions_of_described_things():
    wrong = record("describe", 0, right=False)
    truth = playground.SLOT_PARSERS["describe"](wrong.expected)
    spoken = playground.SLOT_PARSERS["describe"](wrong.answer)
    pairs = playground.confused(wrong)
    assert pairs.count(("a thing", "not named")) == len(truth) - len(spoken)
    assert set(pairs) <= {("a thing", "not named"), ("large", "small")}
    assert playground.confused(replace(wrong, answer="")) == [("a thing", "not named")] * len(truth)
    invented = replace(wrong, answer=wrong.expected, expected="")
    assert playground.confused(invented) == [("nothing", "a thing that is not there")] * len(truth)


def test_markup_in_what_was_said_is_text():
    blocks = [Heading(EVIL), Text(EVIL), Table((EVIL,), [(EVIL,)]), Card(EVIL, [], EVIL, EVIL, EVIL)]
    parsed = Page(to_html(EVIL, blocks))
    assert not {"script", "img"} & {tag for tag, _ in parsed.tags}
    assert any("<script>" in text for text in parsed.texts["td"])
    lines = to_markdown(EVIL, blocks).splitlines()
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")]
    assert cells == [2, 2, 2]
    assert not any(re.search(r"(?<!\\)[<`]", line) for line in lines)


def test_differences_are_paired(tmp_path):
    """B mends item 0 of every family and breaks item 2: no score moves much, but four items of eighteen flip."""
    a, b = items((0, 1, 3)), items((1, 2, 3), tokens=9)
    found, flips = differences((RUN, a), (RUN, b))
    by_name = {d.family: d for d in found}
    assert list(by_name) == [*FAMILIES, "mean"]
    for family in ("attributes", "video"):
        d = by_name[family]
        assert (d.n, d.better, d.worse, d.a, d.b) == (6, 1, 1, 0.5, 0.5)
        assert d.low < 0 < d.high and d.per_forward == (2.0, 3.0) and d.per_second == (12.0, 18.0)
    mean = by_name["mean"]
    assert mean.better == mean.worse == 3 and len(flips) == 6
    assert mean.b - mean.a == pytest.approx(sum(d.b - d.a for d in found[:-1]) / 3)


def test_intervals_of_paired_differences():
    """All items move alike: no interval at all. A run against itself: nothing. Ten of ten mended: never zero."""
    same, _ = differences((RUN, items()), (RUN, items()))
    assert all(d.low == d.high == 0 and d.better == d.worse == 0 for d in same)
    wrong = [record("attributes", i, right=False) for i in range(6)]
    right = [record("attributes", i) for i in range(6)]
    [mended], _ = differences((RUN, wrong), (RUN, right))
    assert (mended.low, mended.high, mended.better) == (1.0, 1.0, 6)
    half = [replace(r, score=float(i % 2)) for i, r in enumerate(right * 50)]
    half = [replace(r, index=i) for i, r in enumerate(half)]
    flipped = [replace(r, score=1.0) if i < 30 else r for i, r in enumerate(half)]
    [d], _ = differences((RUN, half), (RUN, flipped))
    n, p = len(half), 15 / len(half)  # fifteen of the first thirty were wrong
    spread = 1.96 * (p * (1 - p) / n) ** 0.5
    assert (d.low, d.high) == pytest.approx((p - spread, p + spread), abs=0.01)


def test_only_common_items_of_the_same_questions_are_compared():
    a, b = items(), items()[3:]
    found, _ = differences((RUN, a), (RUN, b))
    assert [d.n for d in found] == [3, 6, 6, 15]
    with pytest.raises(ValueError, match="the runs differ in seed: 1 and 2"):
        differences((RUN, a), (replace(RUN, seed=2), a))
    with pytest.raises(ValueError, match="no item in common"):
        differences((RUN, a[:3]), (RUN, b))
    with pytest.raises(ValueError, match="do not ask the same: attributes 0"):
        differences((RUN, a[:1]), (RUN, [replace(a[0], question="else?")]))


def test_the_commands(tmp_path, capsys):
    a, b = written(tmp_path / "a", items()), written(tmp_path / "b", items((1, 3)))
    assert main(["report", str(a)]) == 0
    assert capsys.readouterr().out.strip() == str(a / "index.html")
    assert main(["compare", str(a), str(b), "--output", str(tmp_path / "both")]) == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"^ *{name} +\d+ ", shown, re.MULTILINE) for name in (*FAMILIES, "mean"))  # 80 columns do
    parsed = Page((tmp_path / "both" / "index.html").read_text(encoding="utf-8"))
    assert [t for t, _ in parsed.tags].count("img") == 1 and parsed.open == []
    assert "mean" in (tmp_path / "both" / "report.md").read_text(encoding="utf-8")


def test_long_names_take_more_lines_and_cost_no_number():
    name = "ChartQA_TEST_augmented"
    long = [replace(r, family=name, metric="multiple_choice", score=1.0, counts=None) for r in items()[:6]]
    out = io.StringIO()
    Console(file=out, width=80).print(table(long, "title"))
    shown = out.getvalue()
    numbers = [cell for row in rows(long) for cell in row if cell not in (name, "multiple_choice")]
    first = next(line for line in shown.splitlines() if "100.0" in line)
    assert "…" not in shown and name.startswith(first.split()[0])
    assert len(numbers) == 7 and all(number in first for number in numbers)


def test_a_report_of_a_source_that_is_gone_says_so(tmp_path):
    source = {"source": str(tmp_path / "gone.tsv"), "metric": "anls", "media_root": None, "sha256": "0"}
    run = replace(RUN, suite="local", items=source, seed=0)
    path = report(written(tmp_path / "out", [replace(record("attributes", 0, right=False), family="gone")], run))
    assert "gone.tsv: no such file" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name, text, says", [
    (None, None, "no results to read"),
    ("run.json", "{", "holds files that are no results of ours"),
    ("run.json", '{"version": 1}', "results of version 1, this code reads 3 and 4"),
    ("items.jsonl", "", "holds no finished item"),
])  # fmt: skip
def test_directories_that_hold_no_results(tmp_path, capsys, name, text, says):
    if name is not None:
        written(tmp_path / "run", items()[:1])
        (tmp_path / "run" / name).write_text(text)
    for command in (["report"], ["compare", str(tmp_path / "run")]):
        assert main([*command, str(tmp_path / "run")]) == 2
        assert says in (err := capsys.readouterr().err) and err.count("\n") == 1
    with pytest.raises(ValueError, match=says):
        load(tmp_path / "run")


def test_numbers_are_json(page):
    assert json.loads(json.dumps(totals(page[0]))) == totals(page[0])
