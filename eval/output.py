"""A directory of results: ``run.json`` says what was run, ``items.jsonl`` holds a line per item as it comes.

The deciding choices: ``items.jsonl`` itself is locked by the system while a run writes it, so that a second run is
refused, and a killed one leaves no lock behind. Lines are only ever appended; what a kill left of a last line is cut
off by the next run, which then goes on where the killed one stopped. Of several processes each has a file of its own,
``items.<rank>.jsonl``; the first takes these over when all have ended, or when the next run begins, and puts the lines
into the order in which one process would have written them.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from eval.ranks import ALONE, Ranks
from eval.record import READABLE, ItemRecord, RunRecord

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing refuses a second run there
    fcntl = None

Key = tuple[str, int]
FREE = ("limit", "batch_size", "hardware")  # may differ when a run goes on: they change no answer


class AnotherRun(ValueError):
    """The directory belongs to a different run, or one is writing there."""


Append = Callable[[Sequence[ItemRecord]], None]


@contextmanager
def continued(
    output: Path, run: RunRecord, families: Sequence[str] = (), ranks: Ranks = ALONE
) -> Iterator[tuple[dict[Key, ItemRecord], Append]]:
    """(items that are done since this run was first started, a function that appends more), the directory locked.

    Args:
        families: in the order in which their items shall stand.
        ranks: when the first process leaves, all have left, and its items are those of all.

    Raises:
        ValueError: another run writes there now, it holds a different run or no results at all, or cannot be used.
    """
    with (_as_first if ranks.first else _as_other)(output, run, families, ranks) as opened:
        yield opened


@contextmanager
def _as_first(output: Path, run: RunRecord, families: Sequence[str], ranks: Ranks):
    with locked(output / "items.jsonl") as file:
        with _named(output):
            refuse_another(output, run.to_dict())
            raw = file.read()
            done = _parsed(raw)
            file.truncate(raw.rfind(b"\n") + 1)
            _take_over(output, file, done)
            replace_file(output / "run.json", json.dumps(run.to_dict(), indent=1))
        ranks.wait()
        yield done, partial(_append, file, done)
        ranks.wait()
        with _named(output):
            _take_over(output, file, done)
            _put_in_order(output / "items.jsonl", done, families)


@contextmanager
def _as_other(output: Path, run: RunRecord, families: Sequence[str], ranks: Ranks):
    ranks.wait()  # the first has looked at the directory
    done = _parsed((output / "items.jsonl").read_bytes())
    with locked(output / f"items.{ranks.rank}.jsonl") as file:
        yield done, partial(_append, file, done)
    ranks.wait()


@contextmanager
def _named(output: Path) -> Iterator[None]:
    """Errors in one line that names the directory."""
    try:
        yield
    except AnotherRun:
        raise
    except OSError as error:
        raise _unusable(output, error) from error
    except (TypeError, AttributeError, ValueError) as error:
        raise _foreign(output, error) from error


def _append(file: IO[bytes], done: dict[Key, ItemRecord], records: Sequence[ItemRecord]) -> None:
    done.update({(record.family, record.index): record for record in records})
    file.write("".join(_line(record) for record in records).encode())
    file.flush()


def _take_over(output: Path, file: IO[bytes], done: dict[Key, ItemRecord]) -> None:
    """What other processes have written, moved into ``file``."""
    for path in sorted(output.glob("items.*.jsonl")):
        with locked(path) as part:
            _append(file, done, list(_parsed(part.read()).values()))
            path.unlink()


def _put_in_order(path: Path, done: dict[Key, ItemRecord], families: Sequence[str]) -> None:
    """Items of ``families`` behind all others, in that order, each once; nothing is written if they stand so."""
    others = [family for family in dict.fromkeys(family for family, _ in done) if family not in families]
    place = {family: number for number, family in enumerate([*others, *families])}
    wanted = sorted(done, key=lambda key: (place[key[0]], key[1]))
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    if wanted != [(line["family"], line["index"]) for line in lines]:
        replace_file(path, "".join(_line(done[key]) for key in wanted))


def load(output: Path) -> tuple[RunRecord, list[ItemRecord]]:
    """A directory's run and its items in the order of families and indices.

    Raises:
        ValueError: it holds no results, or some of another version.
    """
    try:
        header = json.loads((output / "run.json").read_text(encoding="utf-8"))
        if (found := header.get("version")) not in READABLE:
            known = " and ".join(map(str, READABLE))
            raise ValueError(f"{output}: results of version {found}, this code reads {known}")
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
def locked(path: Path) -> Iterator[IO[bytes]]:
    """A file opened for reading and appending by this process alone; its folder is made if need be.

    Raises:
        ValueError: another process has it, or it cannot be written.
    """
    output = path.parent
    try:
        output.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise _unusable(output, error) from error
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(output) from None
        except OSError:
            pass  # a file system without locks
        if not (path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())):
            raise _busy(output)  # it was replaced by another run between opening and locking
        file.seek(0)
        yield file


def refuse_another(output: Path, run: dict) -> None:
    """AnotherRun if ``run.json`` speaks of a run with other settings."""
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


def replace_file(path: Path, text: str) -> None:
    """Write beside and rename, so that a kill leaves the old file or the new one."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _busy(output: Path) -> AnotherRun:
    return AnotherRun(f"{output}: another run is writing there; wait for it or give another --output")


def _unusable(output: Path, error: OSError) -> ValueError:
    return ValueError(f"{output}: cannot be used for results ({error.strerror})")


def _foreign(output: Path, error: Exception) -> ValueError:
    return ValueError(f"{output}: holds files that are no results of ours ({error})")
