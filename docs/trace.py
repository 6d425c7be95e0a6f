"""Draw how an answer comes out of its masks: the picture `docs/trace.png` of the README.

    python docs/trace.py
    python docs/trace.py --image examples/before.png --prompt "What does the image show?" --output trace.png

One line a forward pass, and on it the block that is open: a light box is a mask, a token has the color of the step
(within its block) in which it was committed and keeps it. A dark rim marks the tokens that a pass has just committed.
"""

import argparse
import sys
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from data_pipelines.errors import DataError
from data_pipelines.media import open_media
from data_pipelines.playground.canvas import font
from data_pipelines.readers.messages import user_sample
from vlm.answering import answer_batch, build_request, settings
from vlm.checkpoints.load import CheckpointError, load

ROOT = Path(__file__).parent.parent
SCALE = 2  # pixels per unit: sharp on dense screens
PICTURE, GAP, MARGIN = 300, 34, 26  # units: longest side of the picture, space between columns, rim of the page
LINE, CELL_HEIGHT, CELL_GAP = 27, 22, 4
LINES_PER_COLUMN = 30
PAPER, INK, FAINT, MASK = (255, 255, 255), (38, 42, 51), (140, 146, 158), (234, 237, 242)
STEPS = ((255, 214, 102), (255, 173, 110), (247, 140, 150), (214, 134, 201), (166, 142, 224), (125, 165, 233),
         (112, 197, 209), (140, 211, 160))  # fmt: skip


@dataclass
class Line:
    """One forward pass: the open block's slots, the step that committed each (None: a mask), and its own step.

    ``text`` holds what each slot shows, "" for masks.
    """

    step: int
    text: list[str]
    committed: list[int | None]


@dataclass
class Trace:
    """Collects lines as decoding runs; its `on_step` is the loop's callback."""

    tokenizer: object
    lines: list[Line] = field(default_factory=list)
    block_start: int = -1

    def on_step(self, states: list) -> None:
        state = states[0]
        slots = state.tokens[state.block_start :] if state.canvas is None else state.canvas
        slots = slots[max(0, state.prompt_length - state.block_start) :]  # a block may begin inside the prompt
        opened = state.block_start != self.block_start
        earlier = [None] * len(slots) if opened else self.lines[-1].committed
        step = 1 if opened else self.lines[-1].step + 1
        text = [self._text(token) for token in slots]
        committed = [(before or step) if shown else None for shown, before in zip(text, earlier)]
        self.lines.append(Line(step, text, committed))
        self.block_start = state.block_start

    def _text(self, token: int) -> str:
        if token == self.tokenizer.mask_token_id:
            return ""
        if token in self.tokenizer.all_special_ids:
            return "end"
        return self.tokenizer.decode([token]).strip() or "␣"

    def blocks(self) -> list[Line]:
        """The last line of every block: the answer as it was closed."""
        following = [*self.lines[1:], None]
        return [line for line, after in zip(self.lines, following) if after is None or after.step == 1]


def color_of(step: int) -> tuple[int, int, int]:
    """Later steps than there are colors share the last one."""
    return STEPS[min(step, len(STEPS)) - 1]


def draw_trace(picture: Image.Image, prompt: str, trace: Trace, counts: str) -> Image.Image:
    """The whole page: picture, prompt and answer on the left, the passes on the right."""
    face = font("DejaVuSans", 12 * SCALE)
    width = max(max(face.getlength(text) for line in trace.lines for text in line.text) / SCALE + 10, 22)
    slots = max(len(line.text) for line in trace.lines)
    column = 26 + slots * (width + CELL_GAP)
    per_column = ceil(len(trace.lines) / ceil(len(trace.lines) / LINES_PER_COLUMN))  # columns of equal height
    columns = [trace.lines[i : i + per_column] for i in range(0, len(trace.lines), per_column)]
    shown = picture.convert("RGB")
    shown = shown.resize(_fitted(shown.size), Image.Resampling.LANCZOS)
    left = _left_height(shown, prompt, trace)
    height = 2 * MARGIN + max(left, 30 + len(columns[0]) * LINE)
    page = Image.new("RGB", _pixels(2 * MARGIN + PICTURE + len(columns) * (GAP + column), height), PAPER)
    _draw_left(page, shown, prompt, trace, counts)
    for i, lines in enumerate(columns):
        x = MARGIN + PICTURE + GAP + i * (column + GAP)
        for j, line in enumerate(lines):
            _draw_line(page, line, i * per_column + j + 1, x, MARGIN + 30 + j * LINE, width)
    _legend(page, MARGIN + PICTURE + GAP, MARGIN, max(line.step for line in trace.lines))
    return page.quantize(256)  # a third of the bytes, and no difference to be seen


def _fitted(size: tuple[int, int]) -> tuple[int, int]:
    return _pixels(*(side * PICTURE / max(size) for side in size))


def _pixels(*units: float) -> tuple[int, ...]:
    return tuple(round(unit * SCALE) for unit in units)


def _flow(trace: Trace) -> list[tuple[float, float, float, str, int]]:
    """The answer's tokens set as running text: (x, y, width, text, step) in units, from the top left."""
    face, x, y, placed = font("DejaVuSans", 12 * SCALE), 0.0, 0.0, []
    for line in trace.blocks():
        for text, step in zip(line.text, line.committed):
            width = face.getlength(text) / SCALE + 8
            if x + width > PICTURE:
                x, y = 0.0, y + LINE
            placed.append((x, y, width, text, step))
            x += width + 3
    return placed


def _left_height(shown: Image.Image, prompt: str, trace: Trace) -> float:
    return shown.height / SCALE + 46 + LINE * len(_wrapped(prompt)) + _flow(trace)[-1][1] + 2 * LINE


def _wrapped(text: str) -> list[str]:
    """Words in lines no longer than the picture is wide."""
    face, lines = font("DejaVuSans-Bold", 14 * SCALE), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if face.getlength(longer) > PICTURE * SCALE and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _draw_left(page: Image.Image, shown: Image.Image, prompt: str, trace: Trace, counts: str) -> None:
    page.paste(shown, _pixels(MARGIN, MARGIN))
    y = MARGIN + shown.height / SCALE + 22
    for words in _wrapped(prompt):
        _write(page, MARGIN, y, words, INK, font("DejaVuSans-Bold", 14 * SCALE), "lm")
        y += LINE
    for x, below, width, text, step in _flow(trace):
        _cell(page, MARGIN + x, y + below, width, text, step)
    _write(page, MARGIN, page.height / SCALE - MARGIN - 6, counts, FAINT, font("DejaVuSans", 12 * SCALE), "lm")


def _draw_line(page: Image.Image, line: Line, number: int, x: float, y: float, width: float) -> None:
    """A pass: its number, then a cell a slot. A block's first pass has a rule above it."""
    if line.step == 1:
        end = x + 22 + len(line.text) * (width + CELL_GAP)
        start, stop = _pixels(x, y - 3), _pixels(end, y - 3)
        ImageDraw.Draw(page).line((*start, *stop), fill=MASK, width=SCALE)
    _write(page, x + 16, y + CELL_HEIGHT / 2, str(number), FAINT, font("DejaVuSans", 11 * SCALE), "rm")
    for i, (text, step) in enumerate(zip(line.text, line.committed)):
        _cell(page, x + 26 + i * (width + CELL_GAP), y, width, text, step, step == line.step)


def _cell(page: Image.Image, x: float, y: float, width: float, text: str, step: int | None, rim: bool = False) -> None:
    fill, outline = (MASK if step is None else color_of(step)), (INK if rim else None)
    box = (*_pixels(x, y), *_pixels(x + width, y + CELL_HEIGHT))
    ImageDraw.Draw(page).rounded_rectangle(box, 5 * SCALE, fill, outline, SCALE)
    _write(page, x + width / 2, y + CELL_HEIGHT / 2, text, INK, font("DejaVuSans", 12 * SCALE), "mm")


def _legend(page: Image.Image, x: float, y: float, steps: int) -> None:
    words = font("DejaVuSans", 12 * SCALE)
    _write(page, x, y + CELL_HEIGHT / 2, "one line a forward pass; committed in step", FAINT, words, "lm")
    x += words.getlength("one line a forward pass; committed in step") / SCALE + 8
    for step in range(1, min(steps, len(STEPS)) + 1):
        _cell(page, x, y, 24, str(step) if step < len(STEPS) else f"{step}+", step)
        x += 27
    _cell(page, x + 8, y, 44, "mask", None)


def _write(page: Image.Image, x: float, y: float, text: str, ink, face: ImageFont.FreeTypeFont, anchor: str) -> None:
    ImageDraw.Draw(page).text(_pixels(x, y), text, ink, face, anchor)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default=str(ROOT / "examples" / "kitchen.png"))
    parser.add_argument("--prompt", default="Describe the image.")
    parser.add_argument("--model", help="a checkpoint (default: the embedded model)")
    parser.add_argument("--output", default=str(ROOT / "docs" / "trace.png"))
    arguments = parser.parse_args(argv)
    try:
        sample = user_sample(arguments.prompt, [arguments.image])
        media = open_media(sample.messages, 1)
        model, processor = load(arguments.model)
        trace = Trace(processor.tokenizer)
        request = build_request(processor, sample.messages, media)
        answer = answer_batch(model, processor, [request], settings(model, mode="block"), trace.on_step)[0]
        counts = f"{answer.tokens} tokens in {answer.forwards} forward passes"
        draw_trace(media[0], arguments.prompt, trace, counts).save(arguments.output, optimize=True)
    except (DataError, CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.output}: {answer.answer}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
