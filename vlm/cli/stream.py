"""Answers on a terminal: closed text stands, the open block's draft is redrawn behind it while it denoises."""

import shutil
import sys
import unicodedata

import torch

DRAFT, RESET = "\033[33m", "\033[0m"
MASK_SIGN = "░"


class TerminalStreamer:
    """The streamer protocol of transformers' text diffusion: ``put``, ``put_draft``, ``end``.

    Args:
        processor: decodes tokens; its mask token is shown as a light shade.
        out: a terminal.
    """

    def __init__(self, processor, out=sys.stdout):
        self.processor, self.out = processor, out
        self.mask_token_id = processor.tokenizer.mask_token_id
        self.tokens: list[int] = []
        self.text = ""  # closed text on the screen
        self.draft_lines = 0  # lines the draft reaches below the closed text's end
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        """Print closed tokens for good; the first call is the prompt, which is not shown."""
        if not self.prompt_seen:
            self.prompt_seen = True
            return
        self._clear()
        self.tokens += value.tolist()
        text = self.processor.decode(self.tokens)
        self.out.write(text[len(self.text) :])
        self.out.flush()
        self.text = text

    def put_draft(self, value: torch.Tensor) -> None:
        """Show the open block behind the closed text."""
        self._clear()
        runs = [MASK_SIGN if t == self.mask_token_id else self.processor.decode([t]) for t in value.tolist()]
        draft = "".join(runs).replace("\n", " ")
        self.out.write(DRAFT + draft + RESET)
        self.out.flush()
        self.draft_lines = (self._column() + _width(draft)) // self._terminal_width()

    def end(self) -> None:
        self._clear()
        self.out.write("\n")
        self.out.flush()

    def _clear(self) -> None:
        """Back to the end of the closed text, and erase what stands behind it."""
        if self.draft_lines:
            self.out.write(f"\033[{self.draft_lines}A")
        column = self._column()
        self.out.write("\r" + (f"\033[{column}C" if column else "") + "\033[J")
        self.draft_lines = 0

    def _column(self) -> int:
        return _width(self.text.rsplit("\n", 1)[-1]) % self._terminal_width()

    def _terminal_width(self) -> int:
        return max(1, shutil.get_terminal_size().columns)


def _width(text: str) -> int:
    """Columns that ``text`` takes: wide East Asian characters and emoji take two, combining marks none."""
    marks = sum(1 for c in text if unicodedata.combining(c))
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text) - marks
