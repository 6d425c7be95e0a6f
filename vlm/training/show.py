"""Training rows of samples as one web page: what the model reads, what it must predict, where blocks begin and end.

python -m vlm.training.show data.jsonl --media-root pictures
python -m vlm.training.show --config configs/demo.yaml --noise 0.7 --output rows.html

The deciding choice: the page is drawn from the layout that training uses, row by row, and from masks at one given
noise level, so that it cannot disagree with what is trained. It holds no script and loads nothing from elsewhere.
"""

import argparse
import base64
import html
import io
import os
import sys
from collections.abc import Iterator
from itertools import count, groupby, islice
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.media import open_media
from data_pipelines.readers import FORMATS, BadLine, read
from data_pipelines.record import Sample
from vlm.checkpoints.load import EMBEDDED
from vlm.composite_processor import processor_of
from vlm.config import DiffusionTraits, VLMConfig
from vlm.layout import Layout
from vlm.noise import draw_masks, noise_rng
from vlm.processor import VLMProcessor
from vlm.training.data import PlaygroundStream, Prepared, lay_out
from vlm.training.own_data import OwnStream
from vlm.training.recipe import DataRecipe, Recipe, read_recipe
from vlm.training.start import traits_for

THUMBNAIL = 160  # pixels
SHORTEST_RUN = 4  # as many vision rows or more in a run become one cell
STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; } h3 { margin-bottom: .3rem; font-size: 1rem; }
img { height: 7rem; margin-right: .5rem; }
.rows { font: 13px/2 ui-monospace, monospace; }
.block > span, p.rows > span { display: inline-block; line-height: 1.4; padding: 0 .2rem; white-space: pre-wrap; }
.block { display: inline; border-left: 2px solid #d33; border-right: 2px solid #d33; margin-right: .15rem; }
.prompt { color: GrayText; }
.vision { background: #8884; }
.next { background: #2a73; }
.shown { background: #48c4; }
.hidden { background: #d80; color: #000; font-weight: 600; }
.fill { text-decoration: underline dotted; }
"""
LEGEND = {
    "prompt": "read only",
    "vision": "vision",
    "next": "clean answer: trained by the next-token loss, where the recipe has it",
    "shown": "supervised slot, shown at this noise",
    "hidden": "supervised slot, masked at this noise (the token it must predict)",
    "shown fill": "fill behind an answer",
}


def rows_page(samples: list[tuple[Prepared, list[Image.Image]]], processor, traits: DiffusionTraits, t: float) -> str:
    """The page for samples with their pictures, masks drawn with probability ``t`` a supervised slot."""
    legend = " ".join(f'<span class="{kind}">{html.escape(text)}</span>' for kind, text in LEGEND.items())
    facts = (
        f"{traits.context_attention} context, shift {traits.prediction_shift}, blocks from the {traits.block_origin}"
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Training rows</title>'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">'
        f"<style>{STYLE}</style><h1>Training rows</h1><p>{facts}; noise {t:g}. Red bars are block borders.</p>"
        f'<p class="rows">{legend}</p>' + "\n".join(_sample(s, pictures, processor, t) for s, pictures in samples)
    )


def hidden_rows(sample: Prepared, t: float) -> np.ndarray:
    """Which rows [R] a draw at level ``t`` masks; the same at every call."""
    layout, rng = sample.layout, noise_rng(0, 0, sample.encoded.id, 1)
    return draw_masks(rng, np.full(layout.n_blocks, t), np.maximum(layout.block, 0), layout.maskable)


def _sample(sample: Prepared, pictures: list[Image.Image], processor, t: float) -> str:
    layout, hidden = sample.layout, hidden_rows(sample, t)
    counts = (
        f"{len(layout.ids)} rows: {(layout.view == 0).sum()} in the clean stream, {(layout.view > 0).sum()} noisy; "
        f"block size {sample.block_size}; supervised blocks: {layout.n_blocks}, supervised slots: "
        f"{layout.maskable.sum()}, of which {hidden.sum()} masked"
    )
    views = [_view(layout, hidden, view, processor) for view in sorted(set(layout.view.tolist()))]
    images = "".join(f'<img src="{_data_uri(picture)}" alt="Picture {n}">' for n, picture in enumerate(pictures, 1))
    return f"<h2>{html.escape(sample.encoded.id)}</h2><div>{images}</div><p>{counts}</p>" + "".join(views)


def _view(layout: Layout, hidden: np.ndarray, view: int, processor) -> str:
    """A heading, then every block of a view between its borders."""
    rows = np.flatnonzero(layout.view == view).tolist()
    in_place = (layout.noise_view[rows] > 0).any()
    name = f"View {view}" if view else ("Stream, noised in place" if in_place else "Clean stream")
    blocks = groupby(rows, lambda row: (layout.block_start[row], layout.block_end[row], layout.block[row]))
    return f'<h3>{name}</h3><div class="rows">' + "".join(
        f'<span class="block" title="block [{start}, {end})">{_cells(layout, hidden, list(run), processor)}</span>'
        for (start, end, _), run in blocks
    ) + "</div>"  # fmt: skip


def _cells(layout: Layout, hidden: np.ndarray, rows: list[int], processor) -> str:
    """A cell a row; a long run of vision rows is one."""
    cells = []
    for kind, run in groupby(rows, lambda row: _kind(layout, hidden, row, processor)):
        run = list(run)
        if kind == "vision" and len(run) >= SHORTEST_RUN:
            text = f"{processor.tokenizer.decode([layout.ids[run[0]]])} × {len(run)}"
            cells.append(_cell(kind, text, f"rows {run[0]} to {run[-1]}"))
            continue
        for row in run:
            text = processor.tokenizer.decode([layout.ids[row]]).replace("\n", "↵")
            cells.append(_cell(kind, text, f"row {row}, position {layout.position[row]}"))
    return "".join(cells)


def _kind(layout: Layout, hidden: np.ndarray, row: int, processor) -> str:
    fill = " fill" if layout.source[row] < 0 else ""
    if layout.maskable[row]:
        return ("hidden" if hidden[row] else "shown") + fill
    if layout.ids[row] in (processor.image_token_id, processor.video_token_id):
        return "vision"
    return "next" if row and layout.view[row] == 0 and layout.next_supervised[row - 1] else "prompt" + fill


def _cell(kind: str, text: str, title: str) -> str:
    return f'<span class="{kind}" title="{title}">{html.escape(text)}</span>'


def _data_uri(picture: Image.Image) -> str:
    small, file = picture.convert("RGB"), io.BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def read_samples(
    found: Iterator[Sample | BadLine], processor: VLMProcessor, traits: DiffusionTraits, recipe: DataRecipe
) -> Iterator[tuple[Prepared, list[Image.Image]]]:
    """What was read, at the model's block size, with its pictures; what cannot be used is said on stderr."""
    for sample in found:
        try:
            if isinstance(sample, BadLine):
                raise DataError(sample.reason)
            media = open_media(sample.messages)
            encoded = processor.encode(sample.messages, media)
            encoded.id = sample.id
            prepared = lay_out(encoded, traits.block_size, recipe, traits, processor.tokenizer.eos_token_id)
        except ValueError as error:
            name = "" if isinstance(error, DataError) else f"{sample.source}: sample {sample.id!r}: "
            print(f"skipped: {name}{error}", file=sys.stderr)
            continue
        yield prepared, [picture for item in media for picture in (item if isinstance(item, list) else [item])]


def stream_samples(
    recipe: Recipe, processor: VLMProcessor, traits: DiffusionTraits
) -> Iterator[tuple[Prepared, list[Image.Image]]]:
    """The stream of the recipe, or of its first stage, from its start; pictures as the vision tower sees them.

    Bad samples of the recipe's own sources are left out, or end it, as ``data.bad_samples`` says.
    """
    first = recipe.in_stages()[0]
    stream = PlaygroundStream(first.data, processor, traits, first.seed)
    if first.data.sources:
        stream = OwnStream(first.data, processor, traits, first.seed, longest=None, skipped=Path(os.devnull))
    for sample in stream.samples(count()):
        yield sample, [_picture(p, processor) for part in ("images", "frames") for p in getattr(sample.encoded, part)]


def _picture(pixels: np.ndarray, processor: VLMProcessor) -> Image.Image:
    """Pixels [3, H, W] back to a picture."""
    mean, std = (np.array(processor.vision_config[name]) for name in ("mean", "std"))
    return Image.fromarray(np.clip((pixels.transpose(1, 2, 0) * std + mean) * 255, 0, 255).astype(np.uint8))


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    with_recipe = any(word.partition("=")[0] == "--config" for word in argv)
    parser = argparse.ArgumentParser(
        prog="python -m vlm.training.show",
        usage="%(prog)s [--model DIR] [--noise T] [--limit N] [--output F] "
        "(SOURCE [--format F] [--media-root DIR] | --config F [--key value ...])",
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
    )
    if not with_recipe:  # else the value of a recipe's key would be taken for it
        parser.add_argument("source", metavar="SOURCE", help="a file of samples, a folder or an address of shards")
        parser.add_argument("--format", choices=FORMATS, help="of its records (default: told by their fields)")
        parser.add_argument("--media-root", metavar="DIR", help="where its media paths start (default: its folder)")
    parser.add_argument("--config", metavar="F", help="a recipe, whose stream is shown; its keys may follow")
    parser.add_argument(
        "--model", metavar="DIR", help="whose tokens (default: the recipe's start, or the embedded one)"
    )
    parser.add_argument("--noise", type=float, default=0.5, metavar="T", help="chance of a mask, 0 to 1 (default 0.5)")
    parser.add_argument("--limit", type=int, default=4, metavar="N", help="samples on the page (default 4)")
    parser.add_argument("--output", default="rows.html", metavar="F", help="the page (default rows.html)")
    arguments, overrides = parser.parse_known_args(argv)
    if not with_recipe and overrides:
        parser.error(f"unknown arguments {' '.join(overrides)}")
    if not 0 <= arguments.noise <= 1 or arguments.limit < 1:
        parser.error("--noise lies between 0 and 1, --limit is at least 1")
    try:
        _write(arguments, overrides)
    except (argparse.ArgumentError, ValueError, OSError) as error:  # DataError is a ValueError
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def _write(arguments: argparse.Namespace, overrides: list[str]) -> None:
    recipe = read_recipe(["--config", arguments.config, *overrides]) if arguments.config else Recipe()
    start = recipe.init_from if recipe.init_from not in (None, "embedded") else None
    directory = arguments.model or start or str(EMBEDDED)
    if not Path(directory).is_dir():
        raise DataError(f"{directory}: no such model directory")
    config = VLMConfig.from_pretrained(directory)
    processor, traits = processor_of(directory, config), traits_for(config.traits, recipe.model.diffusion)
    if arguments.config:
        found = stream_samples(recipe, processor, traits)
    else:
        records = read(arguments.source, arguments.format, arguments.media_root)
        found = read_samples(records, processor, traits, recipe.data)
    samples = list(islice(found, arguments.limit))
    if not samples:
        raise DataError(f"{arguments.config or arguments.source}: no sample that can be shown")
    page = rows_page(samples, processor, traits, arguments.noise)
    Path(arguments.output).write_text(page, encoding="utf-8")
    print(f"{arguments.output}: {len(samples)} samples")


if __name__ == "__main__":
    sys.exit(main())
