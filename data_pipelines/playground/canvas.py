"""The paper of the text families: canvas sizes, contrast-checked colors, fonts by split, noise and JPEG.

The deciding choice: a picture is laid out in *em* (the font size of its smallest text) and only then scaled to pixels.
A canvas is never longer than ``LIMIT`` em, so whatever its size, its smallest letters keep about 11 px of height when
the whole picture is squashed to 192 x 192.
"""

import io
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

from data_pipelines.playground.base import Split, pick

Color = tuple[int, int, int]

LIMIT = 11.5  # longest side of a canvas in em: 192 px / 11.5 = 16.7 px an em, capitals of about 11.7 px
WIDE, TALL = 2.2, 1.7  # the most a canvas is wider than high, and higher than wide
MIN_SIDE, MAX_SIDE = 96, 640
MIN_EM = 11  # pixels: below it a font's own hinting fails, however large the squash shows it
MIN_CONTRAST = 5.0
HINTED = (11, 12, 13, 14, 15, 16, 18, 20, 100)  # pixels: sizes at which widths are measured

PILLOW_FONT = "pillow"
FONTS: dict[Split, tuple[str, ...]] = {
    "train": (
        PILLOW_FONT,
        "DejaVuSans",
        "DejaVuSans-Bold",
        "DejaVuSans-Oblique",
        "DejaVuSerif",
        "DejaVuSansMono",
        "STIXGeneral",
        "cmss10",
        "DejaVuSans-BoldOblique",
        "DejaVuSansMono-Oblique",
        "STIXGeneralItalic",
        "cmr10",
        "cmb10",
        "cmtt10",
    ),
    "heldout": ("DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSansMono-Bold", "STIXGeneralBol"),
}


@dataclass(frozen=True)
class Style:
    """Background, ink that reads well on it, a second ink for titles and rules, and the font's name."""

    background: Color
    shade: Color  # the other end of a faint gradient; equal to background where the paper is plain
    ink: Color
    accent: Color
    font: str


def luminance(color: Color) -> float:
    """Relative luminance of an sRGB color, 0 (black) to 1 (white)."""
    r, g, b = ((c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a: Color, b: Color) -> float:
    """Contrast ratio of two colors, 1 (equal) to 21 (black on white)."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def _color(rng: np.random.Generator, low: int, high: int) -> Color:
    return tuple(rng.integers(low, high, 3, endpoint=True).tolist())


def ink_on(rng: np.random.Generator, *papers: Color) -> Color:
    """A random color that reads well on every one of ``papers``."""
    dark_paper = luminance(papers[0]) < 0.18
    for _ in range(6):
        ink = _color(rng, 130, 255) if dark_paper else _color(rng, 0, 130)
        if all(contrast(ink, paper) >= MIN_CONTRAST for paper in papers):
            return ink
    return best_ink(*papers)


def best_ink(*papers: Color) -> Color:
    """Black or white, whichever stands out more from the worst of ``papers``."""
    return max(((0, 0, 0), (255, 255, 255)), key=lambda ink: min(contrast(ink, paper) for paper in papers))


def style(rng: np.random.Generator, split: Split) -> Style:
    """Paper, inks and a font of ``split``: light paper in two cases of three, dark in the third."""
    background = _color(rng, 190, 255) if rng.random() < 0.66 else _color(rng, 0, 55)
    shade = background
    if rng.random() < 0.25:
        step = int(rng.integers(-30, 31))
        shade = tuple(min(255, max(0, c + step)) for c in background)
    ink = ink_on(rng, background, shade)
    return Style(background, shade, ink, ink_on(rng, background, shade), pick(rng, FONTS[split]))


@lru_cache(maxsize=1)
def _font_folder() -> Path:
    import matplotlib  # only its folder of fonts is used, so nothing else of it is imported

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@lru_cache(maxsize=2048)
def _load(name: str, size: int) -> ImageFont.FreeTypeFont:
    if name == PILLOW_FONT:
        return ImageFont.load_default(size)
    # The basic layout is quicker than raqm, and the same on every machine.
    return ImageFont.truetype(_font_folder() / f"{name}.ttf", size, layout_engine=ImageFont.Layout.BASIC)


def font(name: str, size: float) -> ImageFont.FreeTypeFont:
    """The font at ``size`` pixels, rounded down so that text never outgrows its place and few sizes are cached."""
    step = 1 if size < 32 else 2 if size < 80 else 4
    return _load(name, max(6, int(size) // step * step))


@lru_cache(maxsize=16384)
def width_em(text: str, name: str) -> float:
    """Width of ``text`` in em: the widest of several sizes, for hinting makes small letters up to a tenth wider."""
    return max(_load(name, size).getlength(text) / size for size in HINTED) + 0.05


def frame(rng: np.random.Generator, need_w: float, need_h: float, max_side: int) -> tuple[int, int, float]:
    """A canvas for content of ``need_w`` x ``need_h`` em: (width, height, pixels an em), sides 96..min(640, max_side).

    Between the tightest fit and ``LIMIT`` em a side anything goes, so letters vary from just legible to filling it.
    """
    low = max(need_w, need_h / TALL)
    w = float(rng.uniform(low, max(low, LIMIT)))
    low = max(need_h, w / WIDE)
    h = float(rng.uniform(low, max(low, min(LIMIT, w * TALL))))
    longest, limit = max(w, h), min(MAX_SIDE, max_side)
    smallest = min(limit, max(MIN_SIDE, longest * MIN_EM))
    em = math.exp(rng.uniform(math.log(smallest), math.log(limit))) / longest
    width, height = (min(limit, max(MIN_SIDE, round(side * em))) for side in (w, h))
    return width, height, em


def blank(width: int, height: int, paper: Style) -> Image.Image:
    """An empty page of ``paper``, with its faint gradient from top to bottom if it has one."""
    page = Image.new("RGB", (width, height), paper.background)
    if paper.shade != paper.background:
        page.paste(paper.shade, (0, 0), Image.linear_gradient("L").resize((width, height)))
    return page


@lru_cache(maxsize=1)
def _grain() -> Image.Image:
    """A sheet of grey noise about 128, cropped anew for each picture: drawing fresh noise would cost 20 ms."""
    noise = np.random.default_rng(0).normal(128, 5, (MAX_SIDE + 64, MAX_SIDE + 64))
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8)).convert("RGB")


def add_grain(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """``image`` under mild noise, standard deviation 5 of 255."""
    x, y = rng.integers(0, 64, 2).tolist()
    return ImageChops.add(image, _grain().crop((x, y, x + image.width, y + image.height)), offset=-128)


def finish(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """What a camera or a web site does to a picture: noise now and then, JPEG now and then, mostly nothing."""
    chance = rng.random()
    if chance < 0.15:
        return add_grain(rng, image)
    if chance < 0.27:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(rng.integers(45, 91)))
        return Image.open(buffer).convert("RGB")
    return image


def write(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    color: Color,
    face: ImageFont.FreeTypeFont,
    anchor: str,
) -> list[int]:
    """Draw ``text`` with its ``anchor`` (Pillow's two letters) at ``at``; the box of its ink, [x0, y0, x1, y1]."""
    draw.text(at, text, fill=color, font=face, anchor=anchor)
    return [round(v) for v in draw.textbbox(at, text, font=face, anchor=anchor)]
