"""What the model has answered to lmms-eval's requests: a JSON line each as it comes, so that a killed run goes on.

The deciding choice: lmms-eval keeps answers in memory until a task's last one and scores them then, so they are kept
here. A response is found again by task, document, question and settings; one line holds also what it cost. Several
processes have a file each, ``responses.<rank>.jsonl``, and read all of them.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

from eval.output import locked


@dataclass(frozen=True)
class Response:
    """One answer and what it cost; for a likelihood ``value`` is (loss, whether greedy decoding says the same).

    Attributes:
        error: why it could not be asked; its text is then empty, which every task counts as wrong.
    """

    task: str
    doc_id: int
    digest: str
    text: str
    tokens: int = 0
    forwards: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    seconds: float = 0.0
    finish_reason: str = ""
    value: tuple[float, bool] | None = None
    error: str | None = None


@dataclass
class Responses:
    """Responses by key, and the file that new ones are added to; without a file they are kept in memory."""

    found: dict[tuple, Response] = field(default_factory=dict)
    file: IO[bytes] | None = None

    def get(self, task: str, doc_id: int, digest: str) -> Response | None:
        return self.found.get((task, doc_id, digest))

    def add(self, response: Response) -> None:
        self.found[(response.task, response.doc_id, response.digest)] = response
        if self.file is not None:
            self.file.write((json.dumps(asdict(response), ensure_ascii=False) + "\n").encode())
            self.file.flush()

    def of(self, tasks: set[str]) -> list[Response]:
        return [response for response in self.found.values() if response.task in tasks]


def digest_of(context: str, settings: dict[str, Any], *more: Any) -> str:
    """Of a question and how it is decoded."""
    return blake2b(repr((context, sorted(settings.items()), more)).encode(), digest_size=8).hexdigest()


@contextmanager
def kept(folder: Path | None, rank: int = 0) -> Iterator[Responses]:
    """The responses in a folder, this process's file locked; new ones in memory only without a folder.

    Raises:
        ValueError: another run writes there, or it cannot be written.
    """
    if folder is None:
        yield Responses()
        return
    with locked(folder / f"responses.{rank}.jsonl") as file:
        raw = file.read()
        file.truncate(raw.rfind(b"\n") + 1)  # what a kill left of a last line
        yield Responses(read(folder), file)


def read(folder: Path) -> dict[tuple, Response]:
    """All whole lines of all processes."""
    found: dict[tuple, Response] = {}
    for path in sorted(folder.glob("responses.*.jsonl")):
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                response = Response(**json.loads(line))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: holds a line that is no response of ours ({error})") from error
            found[(response.task, response.doc_id, response.digest)] = response
    return found
