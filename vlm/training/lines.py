"""Files of JSON lines that a run adds to, each line with its step.

A run that was killed has lines after its newest checkpoint, the last of them perhaps cut short. Those steps are done
again, so their lines go when it resumes.
"""

import json
import math
import os
from pathlib import Path


class Lines:
    """The file ``path``, of objects with a ``step``."""

    def __init__(self, path: Path):
        self.path = path

    def cut(self, step: int) -> None:
        """Drop the lines after ``step``. Raises OSError as `append`; the file is then as it was."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
        kept = [line for line in lines if _step(line) <= step]
        beside = self.path.with_suffix(".partial")
        try:
            beside.write_text("".join(line + "\n" for line in kept), "utf-8")
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise self._unwritten(error) from error
        os.replace(beside, self.path)

    def append(self, line: dict) -> None:
        """Add a line. Raises OSError in one line that names the file."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> OSError:
        """A failing write does not name its file."""
        return OSError(f"{self.path}: could not be written ({error.strerror})")


def _step(line: str) -> float:
    """The step of a line; infinity for one that a kill cut short."""
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return math.inf
