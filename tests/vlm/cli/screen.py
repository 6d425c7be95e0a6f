"""A small terminal: it wraps at its edge as real ones do (the cursor waits behind the last column) and knows the few
control sequences that our streamer uses; any other one is an error."""

import re
import unicodedata


class Screen:
    """A terminal ``width`` columns wide and, unless told, higher than anything written to it."""

    def __init__(self, width: int, height: int = 10_000):
        self.width, self.height, self.cells = width, height, {}
        self.row = self.column = self.top = 0

    def write(self, text: str) -> None:
        for control, character in re.findall(r"(\x1b\[\d*[A-Za-z])|(.)", text, re.DOTALL):
            if control:
                self._control(int(control[2:-1] or 0), control[-1])
            else:
                self._put(character)
            self.top = max(self.top, self.row - self.height + 1)

    def flush(self) -> None:
        pass

    def _control(self, count: int, name: str) -> None:
        if name == "A":
            self.row, self.column = max(self.top, self.row - count), min(self.column, self.width - 1)
        elif name == "C":
            self.column = min(self.column + count, self.width - 1)
        elif name == "J":
            self.cells = {at: c for at, c in self.cells.items() if at < (self.row, min(self.column, self.width - 1))}
        elif name != "m":
            raise ValueError(f"unknown control sequence {name!r}")

    def _put(self, character: str) -> None:
        if character == "\n":
            self.row, self.column = self.row + 1, 0
        elif character == "\r":
            self.column = 0
        else:
            if unicodedata.category(character) == "Cc":
                raise ValueError(f"control character {character!r}")
            cells = 2 if unicodedata.east_asian_width(character) in "WF" else 1
            if self.column + cells > self.width:
                self.row, self.column = self.row + 1, 0
            self.cells[self.row, self.column] = character
            self.column += cells

    def shown(self) -> tuple:
        """Everything but blanks, where it stands, and the cursor's line."""
        return {at: c for at, c in self.cells.items() if c != " "}, self.row


def printed(text: str, width: int) -> tuple:
    screen = Screen(width)
    screen.write(text + "\n")
    return screen.shown()
