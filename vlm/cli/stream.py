"""Answers on a terminal: closed text stands, the open block's draft is redrawn behind it while it denoises.

The deciding choice: the cursor's column is followed character by character, as the terminal wraps, so that a draft is
erased exactly and closed text never. Where closed text fills a line to its edge, terminals differ in where the cursor
then stands; a space and a return bring all of them to the next line's start.
"""

import shutil
import sys
import unicodedata
from itertools import groupby

import torch
from rich.cells import get_character_cell_size

DRAFT, RESET = "\033[33m", "\033[0m"
MASK_SIGN = "░"
INCOMPLETE = "\ufffd"  # what decoding makes of a character whose last bytes are not there yet


class TerminalStreamer:
    """The streamer protocol of transformers' text diffusion: ``put``, ``put_draft``, ``end``.

    Args:
        processor: decodes tokens; its mask token is shown as a light shade.
        out: a terminal; None means standard output.
    """

    def __init__(self, processor, out=None):
        self.processor, self.out = processor, out or sys.stdout
        self.mask_token_id = processor.tokenizer.mask_token_id
        self.tokens: list[int] = []
        self.text = ""  # closed text on the screen
        self.column = 0  # where it ends
        self.wrapped = False  # it ends at the screen's edge, and the cursor was moved to the next line
        self.draft_lines = 0  # lines the draft reaches below the closed text's end
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        """Print closed tokens for good; the first call is the prompt, which is not shown."""
        if not self.prompt_seen:
            self.prompt_seen = True
            return
        self._clear()
        self.tokens += value.tolist()
        self._close(self.processor.decode(self.tokens).rstrip(INCOMPLETE))

    def put_draft(self, value: torch.Tensor) -> None:
        """Show the open block behind the closed text."""
        self._clear()
        waiting = self.processor.decode(self.tokens)[len(self.text) :]
        draft = _visible(waiting + self._draft(value.tolist())).replace("\n", " ")
        width, height = shutil.get_terminal_size()
        draft = draft[: max(0, height - 2) * width // 2]  # what scrolls off the screen could not be erased
        self._write(DRAFT + draft + RESET)
        self.draft_lines = _advance(self.column, draft, width)[0]

    def end(self) -> None:
        """Erase the draft, print what was held back, and leave the cursor on a new line."""
        self._clear()
        self._close(self.processor.decode(self.tokens))
        self._write("" if self.wrapped else "\n")

    def _draft(self, tokens: list[int]) -> str:
        """Masks as shades; the tokens between two masks decoded together, as one character may take several."""
        runs = groupby(tokens, key=lambda token: token == self.mask_token_id)
        pairs = ((masked, list(run)) for masked, run in runs)
        return "".join(MASK_SIGN * len(run) if masked else self.processor.decode(run) for masked, run in pairs)

    def _close(self, text: str) -> None:
        """Bring the closed text on the screen, a prefix of ``text``, to all of it."""
        new, self.text = _visible(text[len(self.text) :]), text
        if not new:
            return
        if self.wrapped:
            new = new.removeprefix("\n")  # the cursor is on that line already
        width = shutil.get_terminal_size().columns
        column = _advance(self.column, new, width)[1]
        self.wrapped = column == width
        self.column = 0 if self.wrapped else column
        self._write(new + (" \r" if self.wrapped else ""))

    def _clear(self) -> None:
        """Back to the end of the closed text, and erase what stands behind it."""
        up = f"\033[{self.draft_lines}A" if self.draft_lines else ""
        right = f"\033[{self.column}C" if self.column else ""
        self._write(up + "\r" + right + "\033[J")
        self.draft_lines = 0

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()


def _advance(column: int, text: str, width: int) -> tuple[int, int]:
    """Lines the cursor goes down and the column it reaches (``width``: behind the last one) by writing ``text``."""
    lines = 0
    for character in text:
        cells = get_character_cell_size(character)  # 2 for wide East Asian characters and emoji, 0 for combining marks
        if character == "\n":
            lines, column = lines + 1, 0
        elif column + cells > width:
            lines, column = lines + 1, cells
        else:
            column += cells
    return lines, column


def _visible(text: str) -> str:
    """Without the control characters a model might write, which would move the cursor."""
    return "".join(" " if c != "\n" and unicodedata.category(c) == "Cc" else c for c in text)
