"""The page of training rows, read back: as many masks, blocks and vision rows as the layout has, and no markup."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.vlm.training.small import pair, save_start, stream
from vlm.training.show import hidden_rows, main, rows_page

CONFIGS = Path(__file__).parents[3] / "configs"
TRAITS = {
    "causal": {},
    "shift": {"prediction_shift": 1},
    "sequence": {"context_attention": "block_causal", "block_origin": "sequence"},
    "full": {"context_attention": "full"},
}


class Cells(HTMLParser):
    """(class, text) of every span, and every tag."""

    def __init__(self, page: str):
        super().__init__()
        self.cells, self.tags, self.kind = [], [], None
        self.feed(page.partition("</p>" + '<p class="rows">')[2].partition("</p>")[2])  # behind the legend

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.kind = dict(attrs).get("class") if tag == "span" else None
        if self.kind:
            self.cells.append([self.kind, ""])

    def handle_data(self, data):
        if self.kind:
            self.cells[-1][1] += data

    def count(self, *kinds: str) -> int:
        return sum(kind in kinds for kind, _ in self.cells)


def page_of(sample, t: float, **traits) -> Cells:
    model, processor = pair(**traits)
    return Cells(rows_page([(sample, [])], processor, model.config.traits, t))


@pytest.mark.parametrize("traits", TRAITS.values(), ids=TRAITS)
@pytest.mark.parametrize("t", [0.0, 0.5, 1.0])
def test_cells_are_the_rows(traits, t):
    dataset = stream(**traits)
    for index in (0, 7):
        sample = dataset.sample(index)
        layout, found = sample.layout, page_of(sample, t, **traits)
        hidden = hidden_rows(sample, t)
        assert found.count("hidden", "hidden fill") == hidden.sum()
        assert found.count("shown", "shown fill") == (layout.maskable & ~hidden).sum()
        assert {0.0: not hidden.any(), 0.5: True, 1.0: np.array_equal(hidden, layout.maskable)}[t]
        borders = {(v, a, b, k) for v, a, b, k in zip(layout.view, layout.block_start, layout.block_end, layout.block)}
        if traits.get("context_attention") != "full":  # there the prompt of every turn is one block
            assert found.count("block") == len(borders)
        next_rows = np.flatnonzero(layout.next_supervised) + 1
        assert found.count("next") == len(next_rows)
        repeats = [re.search(r"× (\d+)$", text) for kind, text in found.cells if kind == "vision"]
        media = np.isin(layout.ids, [dataset.processor.image_token_id, dataset.processor.video_token_id])
        assert sum(int(match[1]) if match else 1 for match in repeats) == media.sum()


def test_fill_is_marked_and_only_fill():
    sample = next(s for s in map(stream().sample, range(20)) if (s.layout.source < 0).any())
    assert page_of(sample, 0.0).count("shown fill") == (sample.layout.source < 0).sum()


def jsonl(path: Path, *questions: str) -> Path:
    Image.new("RGB", (40, 30), "red").save(path / "red.png")
    lines = [
        {"id": f"<{n}>", "messages": [
            {"role": "user", "content": [{"type": "image", "image": "red.png"}, {"type": "text", "text": question}]},
            {"role": "assistant", "content": "red & <i>warm</i>"}]}
        for n, question in enumerate(questions)
    ]  # fmt: skip
    file = path / "data.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    return file


def test_a_file_becomes_a_page_without_its_markup(tmp_path, capsys):
    source, output = jsonl(tmp_path, "<script>alert(1)</script>?", "Which color<|mask|>?"), tmp_path / "rows.html"
    assert main([str(source), "--output", str(output), "--noise", "0"]) == 0
    page = output.read_text()
    found = Cells(page)
    assert set(found.tags) <= {"h2", "h3", "div", "p", "span", "img"} and found.tags.count("h2") == 1
    text = "".join(text for kind, text in found.cells if kind == "shown")
    assert text == "red & <i>warm</i><|end|>"
    assert 'src="data:image/png;base64,' in page and "http" not in page.replace("http-equiv", "")
    skipped = capsys.readouterr().err.splitlines()
    assert len(skipped) == 2 and "'<1>'" in skipped[0] and "<|mask|>" in skipped[0] and "data.jsonl:3" in skipped[1]


def test_a_files_media_may_lie_elsewhere(tmp_path):
    (tmp_path / "texts").mkdir()
    source = jsonl(tmp_path, "Which color is it?").rename(tmp_path / "texts" / "data.jsonl")
    arguments = [str(source), "--output", str(tmp_path / "rows.html"), "--format", "messages"]
    assert main(arguments) == 2
    assert main([*arguments, "--media-root", str(tmp_path)]) == 0


@pytest.mark.parametrize("begun", [False, True])
def test_a_recipe_becomes_a_page_of_its_own_stream(tmp_path, begun):
    """In its own blocks under its own shift, also where it starts from a model that has others."""
    output = tmp_path / "rows.html"
    arguments = ["--config", str(CONFIGS / "fast_dvlm.yaml"), "--limit", "1", "--output", str(output), "--noise", "1"]
    arguments += ["--init_from", str(save_start(tmp_path / "start", prediction_shift=0))] if begun else []
    assert main([*arguments, "--data.growth", "null", "--data.block_sizes", "{8: 1.0}"]) == 0
    page = output.read_text()
    assert "View 1</h3>" in page and "View 2</h3>" in page and "block size 8" in page and "shift 1" in page


def test_a_page_begins_with_the_first_sample_that_trains(tmp_path):
    output = tmp_path / "rows.html"
    assert main(["--config", str(CONFIGS / "llada_v.yaml"), "--limit", "1", "--output", str(output)]) == 0
    assert "<h2>describe/0</h2>" in output.read_text()  # of the first stage


def test_a_recipes_own_sources_are_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, output = jsonl(tmp_path, "Which color is it?", "Which color<|mask|>?"), tmp_path / "rows.html"
    sources = ["--data.sources", json.dumps([{"path": str(source)}])]
    arguments = ["--config", str(CONFIGS / "demo.yaml"), *sources, "--output", str(output), "--limit", "2"]
    assert main(arguments) == 0
    headings = re.findall("<h2>(.*?)</h2>", output.read_text())
    assert len(headings) == 2 and all(str(source) in heading for heading in headings)
    assert main([*arguments, "--data.bad_samples", "raise"]) == 2


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["nowhere.jsonl"], "nowhere.jsonl"),
        (["--config", str(CONFIGS / "demo.yaml"), "--data.windw", "3"], "windw"),
        (["--config", str(CONFIGS / "demo.yaml"), "--model", "nowhere"], "nowhere: no such model directory"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(arguments, says, tmp_path, capsys):
    assert main([*arguments, "--output", str(tmp_path / "x.html")]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not (tmp_path / "x.html").exists()
