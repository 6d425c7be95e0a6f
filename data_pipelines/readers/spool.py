"""Videos that arrive as bytes (in a shard, a table, a data URI) lie here as files, because decoders seek.

A file is named by its content, so a second epoch writes nothing. The folder belongs to the process, is removed when it
exits and never holds much more than ``MAX_SPOOL``: the oldest files make room. A sample that waited that long has lost
its video, and says so ("no such file") when it is opened.
"""

import functools
import hashlib
import os
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path

MAX_SPOOL = 2**34  # bytes: 16 GiB


def spooled(data: bytes) -> str:
    """The path of a file with these bytes."""
    return _spool(os.getpid()).path(data)  # a forked worker has its own


class _Spool:
    def __init__(self, limit: int):
        self.folder = tempfile.TemporaryDirectory(prefix="videos-")
        Finalize(self, self.folder.cleanup, exitpriority=0)  # a forked worker runs no atexit handlers
        self.limit, self.sizes = limit, {}  # name → bytes, oldest first

    def path(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        path = Path(self.folder.name, name)
        if name in self.sizes:
            self.sizes[name] = self.sizes.pop(name)  # the newest again
            return str(path)
        while self.sizes and sum(self.sizes.values()) + len(data) > self.limit:
            oldest = next(iter(self.sizes))
            del self.sizes[oldest]
            Path(self.folder.name, oldest).unlink(missing_ok=True)
        path.write_bytes(data)
        self.sizes[name] = len(data)
        return str(path)


@functools.cache
def _spool(process: int) -> _Spool:
    return _Spool(MAX_SPOOL)
