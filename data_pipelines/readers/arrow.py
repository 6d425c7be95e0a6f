"""Tables of Hugging Face ``datasets``: Parquet files and Arrow files, a few rows in memory at a time.

The deciding choice: pyarrow alone reads both, so the ``datasets`` library is not needed. Parquet is read row group by
row group, and its footer says how many rows there are: each row of a damaged group is reported, none is lost.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.images import shown
from data_pipelines.readers.checks import Malformed, Row

BATCH = 16  # rows; each may hold a few pictures


def parquet_rows(path: Path) -> Iterator[Row]:
    """A Row for every table row. Fields that are null are left out."""
    try:
        groups = range(len(group_sizes(path)))
    except Malformed as error:
        yield _row(path, 0, error)
        return
    for group in groups:
        yield from group_rows(path, group)


def group_sizes(path: Path) -> list[int]:
    """Rows of every row group of a Parquet file, as its footer says; raises Malformed if it has none to be read."""
    _pyarrow()
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(path)
    except Exception as error:
        raise Malformed(f"not a Parquet file that can be read (cut off?): {_reason(error)}") from error
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def group_rows(path: Path, group: int) -> Iterator[Row]:
    """A Row for every table row of one row group, numbered as in the whole file."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as table:
        sizes = [table.metadata.row_group(number).num_rows for number in range(group + 1)]
        batches = table.iter_batches(BATCH, row_groups=[group])
        yield from _group(path, 1 + sum(sizes[:group]), sizes[group], batches)


def arrow_rows(path: Path) -> Iterator[Row]:
    """As ``parquet_rows``, for an Arrow IPC file or stream. A stream that breaks off is reported once."""
    pyarrow = _pyarrow()
    number = 0
    try:
        with pyarrow.memory_map(str(path)) as source:
            for batch in _ipc_batches(pyarrow, source):
                for start in range(0, batch.num_rows, BATCH):
                    for record in batch.slice(start, BATCH).to_pylist():
                        number += 1
                        yield _row(path, number, _without_nulls(record))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        yield _row(path, number + 1, Malformed(f"the file is damaged or cut off here: {_reason(error)}"))


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        hint = "pip install 'block-diffusion-vlm[data]'"
        raise DataError(f"Parquet and Arrow files are read by pyarrow, which is not installed: {hint}") from error
    return pyarrow


def _group(path: Path, first: int, count: int, batches: Iterable[Any]) -> Iterator[Row]:
    """The ``count`` rows of one row group; once it breaks, each of the others as a fault."""
    number = first
    try:
        for batch in batches:
            for record in batch.to_pylist():
                yield _row(path, number, _without_nulls(record))
                number += 1
    except Exception as error:  # Arrow's own errors, those of its codecs, text that is not UTF-8
        fault = Malformed(f"its row group is damaged: {_reason(error)}")
        yield from (_row(path, lost, fault) for lost in range(number, first + count))


def _ipc_batches(pyarrow: Any, source: Any) -> Iterator[Any]:
    if source.read(6) == b"ARROW1":
        source.seek(0)
        file = pyarrow.ipc.open_file(source)
        yield from map(file.get_batch, range(file.num_record_batches))
    else:
        source.seek(0)
        yield from pyarrow.ipc.open_stream(source)


def _row(path: Path, number: int, record: dict[str, Any] | Malformed) -> Row:
    where = f"{shown(path)}: row {number}" if number else shown(path)
    return Row(number, where, f"row-{number}", record)


def _without_nulls(value: Any) -> Any:
    """Arrow gives every field of a struct, null where a row has none."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
