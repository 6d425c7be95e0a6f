"""Decoded media on disk: what was decoded once is read back, by any process, in any later epoch or run.

An entry's name is a hash of the file's content and of how it was sampled, so a changed file is another entry and a
copy under another name is none. An entry holds raw RGB: reading it costs what the disk costs, no more.

The deciding choice: processes share the folder without locks. An entry is written beside and renamed, so it is whole
or not there; when it does not read back as it was written, it counts as not there. Every process clears the oldest
entries away when it has written a sixteenth of the limit, down to seven eighths: two writers never exceed it, each
further one by at most a sixteenth. A cache that cannot be written makes a run slower and does not stop it.
"""

import hashlib
import json
import logging
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.images import shown
from data_pipelines.video import Clip, pictures_in

logger = logging.getLogger(__name__)

VERSION = 1  # of what decoding gives and of how an entry is written
SUFFIX, PARTIAL = ".clip", ".partial"
STALE = 3600  # seconds after which an unfinished entry is a dead process's
SHARE = 16  # a process writes this part of the limit between two looks at what is there
REMEMBERED = 2**16  # digests of files that have not changed since


class MediaCache:
    """A folder of decoded media, at most ``max_bytes`` of them.

    Raises:
        DataError: if the folder cannot be made or written to, or the limit is not positive.
    """

    def __init__(self, folder: str | Path, max_bytes: int):
        self.folder, self.max_bytes = Path(folder), max_bytes
        if max_bytes < 1:
            raise DataError(f"{shown(folder)}: the limit of a media cache must be positive, not {max_bytes} bytes")
        self._unswept = max_bytes  # bytes written since the last sweep; the first write sweeps
        self._digests: dict[tuple, bytes] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise DataError(f"{shown(folder)}: cannot hold a media cache ({error.strerror})") from error

    def clip(self, source: Any, how: str, load: Callable[[], Clip]) -> Clip:
        """What ``load`` gives for a source sampled as ``how`` says, from the cache if it is there.

        Args:
            source: a path, a folder of pictures or a list of paths. What lies in memory is loaded and not kept.
        """
        digest = self._digest(source)
        if digest is None:
            return load()
        name = hashlib.blake2b(digest + f"\n{VERSION}\n{how}".encode(), digest_size=20).hexdigest()
        path = self.folder / name[:2] / f"{name[2:]}{SUFFIX}"
        clip = _read(path)
        if clip is None:
            clip = load()
            self._write(path, clip)
        return clip

    def _write(self, path: Path, clip: Clip) -> None:
        data = _packed(clip)
        if len(data) > self.max_bytes // SHARE:
            return
        self._unswept += len(data)
        try:
            if self._unswept > self.max_bytes // SHARE:
                self._sweep(self.max_bytes * 7 // 8 - len(data))
                self._unswept = len(data)
            path.parent.mkdir(exist_ok=True)
            _write_whole(path, data)
        except OSError as error:
            logger.warning("%s: an entry of the media cache could not be written (%s)", self.folder, error.strerror)

    def _sweep(self, most: int) -> None:
        """Remove the oldest entries until ``most`` bytes are left, and what dead processes have left."""
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)
        for written, size, path in entries:
            stale = path.suffix == PARTIAL and written < time.time_ns() - STALE * 10**9
            if total > most or stale:
                path.unlink(missing_ok=True)
                total -= size

    def _entries(self) -> Iterator[tuple[int, int, Path]]:
        """(written at, bytes, path) of everything there; another process may be removing it."""
        for path in self.folder.glob("??/*"):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            yield found.st_mtime_ns, found.st_size, path

    def _digest(self, source: Any) -> bytes | None:
        """Of a file's content, or of the contents of several in order; None if some of it is not a file."""
        if not isinstance(source, (str, Path)):
            return self._together(source) if isinstance(source, (list, tuple)) else None
        if os.path.isdir(source):
            return self._together(pictures_in(Path(source)))
        try:
            found = os.stat(source)
            key = (str(source), found.st_size, found.st_mtime_ns, found.st_ino)
            if key not in self._digests:
                if len(self._digests) >= REMEMBERED:
                    self._digests.clear()
                with open(source, "rb") as file:
                    self._digests[key] = hashlib.file_digest(file, "blake2b").digest()
            return self._digests[key]
        except (OSError, ValueError):  # whoever decodes it says what is wrong with it
            return None

    def _together(self, sources: Sequence[Any]) -> bytes | None:
        digests = [self._digest(source) for source in sources]
        return None if None in digests else b"several" + hashlib.blake2b(b"".join(digests)).digest()


def _packed(clip: Clip) -> bytes:
    """A line of JSON about the pixels, then the pixels of all frames."""
    pixels = b"".join(frame.tobytes() for frame in clip)
    head = {"sizes": [frame.size for frame in clip], "times": clip.times, "crc": zlib.crc32(pixels)}
    return json.dumps(head).encode() + b"\n" + pixels


def _read(path: Path) -> Clip | None:
    """The entry; None if there is none, or it is not as it was written."""
    try:
        head, _, pixels = path.read_bytes().partition(b"\n")
        head, pixels = json.loads(head), memoryview(pixels)
        if zlib.crc32(pixels) != head["crc"]:
            return None
        frames, start = [], 0
        for width, height in head["sizes"]:
            frames.append(Image.frombytes("RGB", (width, height), pixels[start : start + 3 * width * height]))
            start += 3 * width * height
        return Clip(frames, head["times"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_whole(path: Path, data: bytes) -> None:
    handle, partial = tempfile.mkstemp(suffix=PARTIAL, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
