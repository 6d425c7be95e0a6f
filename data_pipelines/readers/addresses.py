"""WebDataset shards that are not files of this machine: web addresses and commands, opened by the library webdataset.

    https://example.org/shard-{0000..0127}.tar      file:///data/a.tar      pipe:zstd -dc shards/a.tar.zst

The library (extra ``webdataset``) expands braces, separates several by ``::`` and opens each: http and https by curl,
``gs`` by gsutil, ``pipe`` by a shell. Bytes are read in order, once, and nothing is kept.

The deciding choice: ``pipe:`` runs a command, so an address is only what its user names as a source, on the command
line or in a recipe. What stands in data is never one: names in records are looked for under the media root, and a
folder's shards by their path.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from signal import SIGPIPE
from typing import BinaryIO

from data_pipelines.errors import DataError
from data_pipelines.images import shown

EXTRA = 'pip install "block-diffusion-vlm[webdataset]"'
COMMAND = "pipe:"
LEFT = (-SIGPIPE, 128 + SIGPIPE)  # how a command ends that nobody listens to any more


class Address(str):
    """Where one shard is streamed from; elsewhere in its place stands the path of a file."""


def is_address(source: object) -> bool:
    """Whether a source is an address and not a path."""
    return isinstance(source, str) and (source.startswith(COMMAND) or "://" in source)


def addresses(source: str) -> list[Address]:
    """The shards of an address, in order.

    Raises:
        DataError: without webdataset, or for a scheme that it does not open.
    """
    if find_spec("webdataset") is None:
        raise DataError(f"{shown(source)}: an address is opened by webdataset, which is not installed: {EXTRA}")
    from webdataset.gopen import gopen_schemes
    from webdataset.shardlists import expand_urls

    found = [Address(url) for url in expand_urls(source)]
    known = sorted({*gopen_schemes, "file"} - {"__default__"})
    for address in found:
        scheme = address.partition(":")[0].lower()
        if not is_address(str(address)) or scheme not in known:
            raise DataError(f"{shown(address)}: webdataset opens no such address (known: {', '.join(known)})")
    return found


@contextmanager
def opened(address: Address) -> Iterator[BinaryIO]:
    """The bytes of a shard. OSError for a file that is not there, and at the end for a command that failed."""
    from webdataset.gopen import gopen

    stream = gopen(str(address))
    try:
        yield getattr(stream, "stream", stream)  # a failed command's own reader stops before its last bytes
    except GeneratorExit:  # nobody reads on: how the command ends now says nothing
        with suppress(OSError):
            stream.close()
        raise
    except Exception:
        _close(stream)  # a command that failed is why its bytes are no shard
        raise
    _close(stream)


def _close(stream: BinaryIO) -> None:
    """OSError if the stream is a command's that failed, and not for having been left."""
    try:
        stream.close()
    except OSError as error:
        status = getattr(getattr(stream, "proc", None), "returncode", None)
        if status not in LEFT:
            raise OSError(f"its command ended with status {status}") from error
