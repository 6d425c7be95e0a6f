"""WebDataset shards: in a tar file, plain or compressed, the consecutive members ``key.*`` are one sample.

``key.json`` is a record in any of the formats, whose media names mean members (``0001.jpg``, or just ``jpg``); where
it lists none, the sample's pictures and videos are its media, in order. Without turns, ``key.txt`` is the caption.

The deciding choices: nothing is unpacked under a member's name, and a name that could lead somewhere (``..``, an
absolute path, a link, a device) costs its sample. A shard must end as tar files end; any other end is reported, where
the tarfile module alone would stop in silence.
"""

import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipelines.images import shown
from data_pipelines.readers.addresses import Address, opened
from data_pipelines.readers.checks import MAX_LINE, Malformed, Row, json_object, short
from data_pipelines.readers.jsonl import BOM, decoded
from data_pipelines.readers.placeholders import listed

PICTURES = {"png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif"}
VIDEOS = {"mp4", "webm", "mkv", "mov", "avi", "m4v", "mpg", "mpeg", "ts"}
TEXTS = {"json", "txt"}
MAX_MEMBER = 2**30  # bytes of one picture or video
TURNS = {"messages", "conversations", "texts", "instruction", "query", "question"}
DAMAGE = (tarfile.TarError, EOFError, OSError, ValueError)  # tarfile words those of the decompressors


def tar_rows(path: Path | Address) -> Iterator[Row]:
    """A Row for every sample of the shard; where the shard breaks off, one for what it was in the middle of."""
    number, group = 0, _Group("")
    try:
        with (
            opened(path) if isinstance(path, Address) else path.open("rb") as stream,
            tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Member, ignore_zeros=True) as tar,
        ):
            while (member := tar.next()) is not None:
                tar.members = []  # or it would remember every one
                key = _key(member.name)
                if key != group.key and group.size:
                    number += 1
                    yield group.row(path, number)
                if key != group.key:
                    group = _Group(key)
                group.take(tar, member)
    except DAMAGE as error:
        group.take_fault(f"the shard is damaged or cut off at this sample or just after it: {error}")
    if group.size:
        yield group.row(path, number + 1)


class _Member(tarfile.TarInfo):
    """A header; one that is broken, or missing before the end mark, is an error wherever it stands."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            member = super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # a block of zeros; more may follow, where shards were joined
            tar.saw_end = True
            raise
        except tarfile.EmptyHeaderError as error:
            if getattr(tar, "saw_end", False):
                raise
            raise tarfile.ReadError("it has no end mark") from error
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error
        tar.saw_end = False
        return member


@dataclass
class _Group:
    """The members of one sample so far."""

    key: str
    size: int = 0
    texts: dict[str, bytes] = field(default_factory=dict)  # json and txt
    media: dict[str, bytes] = field(default_factory=dict)  # by full name
    fault: Malformed | None = None

    def take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        kind = _kind(member.name)
        limit = MAX_LINE if kind in TEXTS else MAX_MEMBER
        if (danger := _danger(member)) is not None:
            self.take_fault(f"member {short(member.name)} {danger}: refused")
        elif member.isdir():
            return
        elif not self.key:
            self.take_fault(f"member {short(member.name)} has no name before its extension")
        elif member.size > limit:
            self.take_fault(f"member {short(member.name)} is larger than {limit // 2**20} MiB")
        elif kind in TEXTS:
            self.texts[kind] = tar.extractfile(member).read()
        elif kind in PICTURES | VIDEOS:
            self.media[_plain(member.name)] = tar.extractfile(member).read()
        self.size += 1

    def take_fault(self, reason: str) -> None:
        """The first stands. A fault is a sample's, even if nothing else of it was read."""
        self.size += 1
        self.fault = self.fault or Malformed(reason)

    def row(self, path: Path, number: int) -> Row:
        name = self.key or f"sample-{number}"
        try:
            record: Any = self._record()
        except Malformed as error:
            record = error
        return Row(number, f"{shown(path)}: sample {short(name)}", name, record, self._names())

    def _record(self) -> dict[str, Any]:
        if self.fault:
            raise self.fault
        record = json_object(self._text("json")) if "json" in self.texts else {}
        if TURNS.isdisjoint(record):
            record = {**record, "texts": [{"user": "", "assistant": self._text("txt").strip()}]}
        if not listed(record, "image") and not listed(record, "video") and not _in_parts(record):
            kinds = {"images": PICTURES, "videos": VIDEOS}
            record |= {key: [n for n in self.media if _kind(n) in kind] for key, kind in kinds.items()}
        return {key: value for key, value in record.items() if value != []}

    def _text(self, kind: str) -> str:
        if kind not in self.texts:
            raise Malformed("it has neither a json member with turns nor a txt member")
        said = decoded(self.texts[kind].removeprefix(BOM))
        if isinstance(said, Malformed):
            raise Malformed(f"member {short(f'{self.key}.{kind}')} is not UTF-8 text")
        return said

    def _names(self) -> dict[str, bytes]:
        """Each of the media by its full name, its name in its folder, and what follows the key."""
        names = {}
        for name, data in self.media.items():
            names |= {name[len(self.key) + 1 :]: data, posixpath.basename(name): data, name: data}
        return names


def _key(name: str) -> str:
    """The name up to the first dot of its last component."""
    folder, base = posixpath.split(_plain(name))
    return posixpath.join(folder, base.partition(".")[0]) if base.partition(".")[0] else ""


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _kind(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _danger(member: tarfile.TarInfo) -> str | None:
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "leads out of the shard"
    if member.issym() or member.islnk():
        return f"is a link to {short(member.linkname)}"
    return None if member.isreg() or member.isdir() else "is neither a file nor a folder"


def _in_parts(record: dict[str, Any]) -> bool:
    """Whether the turns are lists of parts, which name their media themselves."""
    turns = record.get("messages")
    contents = [turn.get("content") for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    return any(isinstance(content, list) for content in contents)
