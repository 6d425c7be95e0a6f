"""Any collection → samples: what kind of file it is, what shape its records have, and one function that reads it.

The deciding choice: the two questions are apart. The file's first bytes say how records lie in it (lines, an array, a
table, a shard); each record's own fields say its shape, so that a text-only sample, or another shape, may stand beside
the others. ``format`` answers the second question for all of them.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from data_pipelines.errors import DataError
from data_pipelines.images import check_file, shown
from data_pipelines.readers import finevision, instruction, llava, messages, openai, sharegpt, vlmeval
from data_pipelines.readers.addresses import Address, addresses, is_address
from data_pipelines.readers.arrow import arrow_rows, parquet_rows
from data_pipelines.readers.checks import BadLine, Malformed, Row, own_id, short
from data_pipelines.readers.json_array import array_rows
from data_pipelines.readers.jsonl import BOM, jsonl_rows
from data_pipelines.readers.resolve import Media
from data_pipelines.readers.tsv import tsv_rows
from data_pipelines.readers.webdataset import tar_rows
from data_pipelines.record import Sample

SHAPES: dict[str, ModuleType] = {  # the first that fits a record is its shape
    "finevision": finevision,
    "llava": llava,
    "openai": openai,
    "messages": messages,
    "sharegpt": sharegpt,
    "instruction": instruction,
    "vlmeval": vlmeval,
}
FORMATS = (*SHAPES, "webdataset")
SHARDS = (".parquet", ".arrow", ".tar", ".tar.gz", ".tgz", ".jsonl")  # what a folder is searched for
TEXTS = {".json", ".jsonl", ".ndjson", ".tsv"}
WIDE = (b"\xff\xfe", b"\xfe\xff")  # the byte-order marks of UTF-16 and UTF-32

Rows = Callable[[Path | Address], Iterator[Row]]


def read(
    source: str | Path, format: str | None = None, media_root: str | Path | None = None
) -> Iterator[Sample | BadLine]:
    """A Sample or a BadLine for every record of a file, or of a folder of shards, in order; never neither.

    Args:
        source: JSON lines, a JSON array, Parquet, Arrow, a WebDataset shard, a VLMEvalKit table; or a folder of
            shards of one kind (as ``save_to_disk`` of Hugging Face ``datasets`` leaves it), read by their names; or
            the address of WebDataset shards (`data_pipelines.readers.addresses`), of which ``pipe:`` runs a command.
        format: one of ``FORMATS``, if the records' own fields should not decide.
        media_root: where relative media paths start and what no path may leave; by default the file's own folder.
            A shard's media lie in the shard, unless this names a folder for the others.

    Each id is the record's own, which others' collections repeat, or else its place in the file.

    Raises:
        DataError: at once if the source is missing or empty, its kind is not known or the format has no such name;
            while reading if a table's header cannot be read, or pyarrow is needed and is not installed; an address
            needs webdataset.
    """
    found = shards(source, format, media_root)
    return (shard.sample(row) for shard in found for row in shard.rows(shard.path))


@dataclass(frozen=True)
class Shard:
    """One file of a source, or one shard at an address.

    Attributes:
        rows: reads its records in order.
        shape: what they all are, one of ``SHAPES``; None lets each record's fields decide.
        root: where their media are looked for.
    """

    path: Path | Address
    rows: Rows
    shape: str | None
    root: Path | None

    def sample(self, row: Row) -> Sample | BadLine:
        return _sample(row, self.path, self.shape, self.root)


def shards(source: str | Path, format: str | None = None, media_root: str | Path | None = None) -> list[Shard]:
    """The files that `read` reads, in its order; the same arguments and errors."""
    if format is not None and format not in FORMATS:
        raise DataError(f"unknown format {format!r} (known: {', '.join(FORMATS)})")
    root = None if media_root is None else Path(media_root)
    if is_address(source):
        return [Shard(address, tar_rows, format if format in SHAPES else None, root) for address in addresses(source)]
    return [_shard(check_file(path), format, root) for path in _files(Path(source))]


def shape_of(record: dict) -> str:
    """The name of a record's format."""
    for name, shape in SHAPES.items():
        if shape.fits(record):
            return name
    raise Malformed(f"no known format has the fields {short(sorted(map(str, record)))} (known: {', '.join(SHAPES)})")


def _shard(path: Path, format: str | None, root: Path | None) -> Shard:
    rows = _kind_of(path)
    if format == "webdataset" and rows is not tar_rows:
        raise DataError(f"{shown(path)}: not a WebDataset shard (a tar file)")
    shape = format if format in SHAPES else ("vlmeval" if rows is tsv_rows else None)
    return Shard(path, rows, shape, root or (None if rows is tar_rows else path.parent))


def _sample(row: Row, path: Path | Address, shape_name: str | None, root: Path | None) -> Sample | BadLine:
    name, where = row.name, row.where
    try:
        if isinstance(row.record, Malformed):
            raise row.record
        if (given := own_id(row.record)) is not None:
            name, where = given, f"{where}: sample {short(given)}"
        shape = SHAPES[shape_name or shape_of(row.record)]
        media = Media(root, row.members)
        chat = [messages.checked(message, media) for message in shape.messages(row.record)]
    except Malformed as error:
        return BadLine(name, row.number, f"{where}: {error}")
    meta = {key: value for key, value in row.record.items() if key != "id" and key not in shape.KEYS}
    return Sample(id=name, messages=chat, source=str(path), meta=meta)


def _files(source: Path) -> list[Path]:
    """The file itself, or a folder's shards."""
    if not os.path.isdir(source):  # unlike Path.is_dir, no error for an impossible name
        return [source]
    paths = sorted(path for path in source.iterdir() if path.name.endswith(SHARDS) and not path.name.startswith("."))
    if (source / "state.json").is_file():  # save_to_disk; the other Arrow files in it are caches
        paths = [path for path in paths if path.name.startswith("data-")]
    kinds = {path.suffix for path in paths}
    if len(kinds) != 1:
        inner = sorted(path.name for path in source.iterdir() if path.is_dir())
        found = f"no shards, but folders ({', '.join(inner)}): name one" if inner else "no shards"
        if kinds:
            found = f"shards of several kinds ({', '.join(sorted(kinds))}): name one"
        raise DataError(f"{shown(source)}: the folder holds {found}; a shard ends in {', '.join(SHARDS)}")
    return paths


def _kind_of(path: Path) -> Rows:
    with path.open("rb") as file:
        head = file.read(2**12)
    if head.startswith(b"PAR1"):
        return parquet_rows
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return arrow_rows
    if packed := head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        if TEXTS & {path.suffix, Path(path.stem).suffix} and path.suffix != ".tgz":
            raise DataError(f"{shown(path)}: only tar shards are read compressed: unpack it first")
    if packed or head[257:262] == b"ustar":
        return tar_rows
    if head.startswith(WIDE):
        raise DataError(f"{shown(path)}: the file is UTF-16 or UTF-32 text, not UTF-8")
    return _kind_of_text(path, head.removeprefix(BOM))


def _kind_of_text(path: Path, head: bytes) -> Rows:
    """A file that begins like none of them is what its name says, and its records are reported one by one."""
    start = head.lstrip()[:1]
    if start == b"[" and path.suffix != ".jsonl":
        return array_rows
    if start == b"{":
        return jsonl_rows
    if {b"question", b"index"} & set(head.partition(b"\n")[0].replace(b'"', b"").strip().split(b"\t")):
        return tsv_rows
    by_name = {
        ".jsonl": jsonl_rows,
        ".ndjson": jsonl_rows,
        ".tsv": tsv_rows,
        ".tar": tar_rows,
        ".parquet": parquet_rows,
    }
    if path.suffix not in by_name:
        raise DataError(f"{shown(path)}: not a format that is known ({', '.join(FORMATS)})")
    return by_name[path.suffix]
