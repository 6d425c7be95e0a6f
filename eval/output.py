"""A directory of results: ``run.json`` says what was run, ``items.jsonl`` holds a line per item as it comes.

The deciding choices: ``items.jsonl`` itself is locked by the system while a run writes it, so that a second run is
refused, and a killed one leaves no lock behind. Lines are only ever appended; what a kill left of a last line is cut
off by the next run, which then goes on where the killed one stopped.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from eval.record import VERSION, ItemRecord, RunRecord

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing refuses a second run there
    fcntl = None

Key = tuple[str, int]
FREE = ("limit", "batch_size", "hardware")  # may differ when a run goes on: they change no answer


class AnotherRun(ValueError):
    """The directory belongs to a different run."""


@contextmanager
def continued(
    output: Path, run: RunRecord
) -> Iterator[tuple[dict[Key, ItemRecord], Callable[[Sequence[ItemRecord]], None]]]:
    """(items that an earlier session of this run has done, a function that appends more), the directory locked.

    Raises:
        ValueError: another run writes there now, it holds a different run or no results at all, or cannot be used.
    """
    with _locked(output) as file:
        try:
            _refuse_another(output, run.to_dict())
            raw = file.read()
            done = _parsed(raw)
            file.truncate(raw.rfind(b"\n") + 1)
            _replace(output / "run.json", json.dumps(run.to_dict(), indent=1))
        except AnotherRun:
            raise
        except OSError as error:
            raise _unusable(output, error) from error
        except (TypeError, AttributeError, ValueError) as error:
            raise _foreign(output, error) from error

        def append(records: Sequence[ItemRecord]) -> None:
            file.write("".join(_line(record) for record in records).encode())
            file.flush()

        yield done, append


def load(output: Path) -> tuple[RunRecord, list[ItemRecord]]:
    """A directory's run and its items in the order of families and indices.

    Raises:
        ValueError: it holds no results, or some of another version.
    """
    try:
        header = json.loads((output / "run.json").read_text(encoding="utf-8"))
        if header.get("version") != VERSION:
            found = header.get("version")
            raise ValueError(f"{output}: results of version {found}, this code reads version {VERSION}")
        records = list(_parsed((output / "items.jsonl").read_bytes()).values())
        run = RunRecord(**header)
    except OSError as error:
        raise ValueError(f"{output}: no results to read ({error.strerror})") from error
    except (TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _foreign(output, error) from error
    if not records:
        raise ValueError(f"{output}: holds no finished item")
    families = list(dict.fromkeys(record.family for record in records))
    return run, sorted(records, key=lambda record: (families.index(record.family), record.index))


@contextmanager
def _locked(output: Path) -> Iterator[IO[bytes]]:
    """``items.jsonl`` opened for reading and appending, by this process alone."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        file = (output / "items.jsonl").open("a+b")
    except OSError as error:
        raise _unusable(output, error) from error
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{output}: another run is writing there; wait for it or give another --output") from None
        except OSError:
            pass  # a file system without locks
        file.seek(0)
        yield file


def _refuse_another(output: Path, run: dict) -> None:
    header = output / "run.json"
    if not header.exists():
        return
    earlier = json.loads(header.read_text(encoding="utf-8"))
    for key, value in run.items():
        if key not in FREE and earlier.get(key) != value:
            raise AnotherRun(f"{output} holds another run: its {key} is {earlier.get(key)!r}, this one's {value!r}")


def _parsed(raw: bytes) -> dict[Key, ItemRecord]:
    """Whole lines only: what a kill left of a line has no line end, and may stop inside a character."""
    done = {}
    for line in raw.split(b"\n")[:-1]:
        record = ItemRecord(**json.loads(line))
        record.counts = tuple(record.counts) if record.counts else None
        done[(record.family, record.index)] = record
    return done


def _line(record: ItemRecord) -> str:
    return json.dumps(record.to_dict(), ensure_ascii=False) + "\n"


def _replace(path: Path, text: str) -> None:
    """Write beside and rename, so that a kill leaves the old file or the new one."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _unusable(output: Path, error: OSError) -> ValueError:
    return ValueError(f"{output}: cannot be used for results ({error.strerror})")


def _foreign(output: Path, error: Exception) -> ValueError:
    return ValueError(f"{output}: holds files that are no results of ours ({error})")
