"""Draw docs/playground.png: pictures, a question and its answer from every family of the playground.

python docs/playground.py
"""

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from data_pipelines.playground import EVALUATED, item

TILE, TEXT, GAP, PER_ROW = 200, 62, 10, 6
PAPER, INK, SOFT = "white", "#222222", "#777777"


def tile(family: str, index: int = 3) -> Image.Image:
    """One family: its picture (frames and several pictures side by side), its name, a question, the answer."""
    made = item(family, "heldout", 1, index, max_side=320)
    out = Image.new("RGB", (TILE, TILE + TEXT), PAPER)
    media = made.media[:: max(1, len(made.media) // 4)][:4]
    side = TILE // (1 if len(media) == 1 else 2)
    for k, picture in enumerate(media):
        fitted = picture.copy()
        fitted.thumbnail((side - 2, side - 2), Image.Resampling.LANCZOS)
        x, y = k % 2 * side, k // 2 * side
        out.paste(fitted, (x + (side - fitted.width) // 2, y + (side - fitted.height) // 2))
    turn, draw = made.turns[0], ImageDraw.Draw(out)
    draw.text((2, TILE + 2), family, fill=SOFT, font=ImageFont.load_default(11))
    said = textwrap.shorten(f"{turn.question} {turn.answer}", 84, placeholder=" …")
    for line, text in enumerate(textwrap.wrap(said, 34)[:3]):
        draw.text((2, TILE + 16 + 14 * line), text, fill=INK, font=ImageFont.load_default(12))
    return out


def main() -> None:
    tiles = [tile(family) for family in EVALUATED]
    rows = -(-len(tiles) // PER_ROW)
    sheet = Image.new("RGB", (PER_ROW * (TILE + GAP) + GAP, rows * (TILE + TEXT + GAP) + GAP), PAPER)
    for k, picture in enumerate(tiles):
        sheet.paste(picture, (GAP + k % PER_ROW * (TILE + GAP), GAP + k // PER_ROW * (TILE + TEXT + GAP)))
    sheet.save(Path(__file__).with_name("playground.png"), optimize=True)


if __name__ == "__main__":
    main()
