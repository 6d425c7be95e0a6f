"""What every reader says of a record it cannot use, and the checks they share.

The deciding choice: what is wrong with one record is a value for whoever reads, not an exception, so that one bad
record never costs the others. Inside the readers it travels as ``Malformed``; it leaves them as a ``BadLine``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_LINE = 2**26  # bytes: 64 MiB hold some forty megapixel photographs in base64, a mistaken file does not fit


@dataclass(frozen=True)
class BadLine:
    """A record that is not a sample.

    Attributes:
        id: the record's own id where it has a usable one, else its name in the file (``line-<n>``, ``row-<n>`` ...).
        line: its number in the file, from 1; 0 where the fault is the file's and not one record's.
        reason: one line, ``file:line: what is wrong``.
    """

    id: str
    line: int
    reason: str


class Malformed(Exception):
    """What is wrong with a record; becomes its BadLine and never leaves this package."""


class NotText(Malformed):
    """The bytes are not UTF-8."""


@dataclass(frozen=True)
class Row:
    """One record as its file holds it, before anyone asks what it means.

    Attributes:
        number: its place in the file, from 1.
        where: how an error names that place, ``file:17``.
        name: its id if it gives none itself.
        record: its fields, or why they cannot be read.
        members: bytes of the media that lie beside it in its shard, by every name it may use for them.
    """

    number: int
    where: str
    name: str
    record: dict[str, Any] | Malformed
    members: Mapping[str, bytes] = field(default_factory=dict)


def json_object(source: str) -> dict[str, Any]:
    try:
        record = json.loads(source)
    except json.JSONDecodeError as error:
        raise Malformed(f"not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        raise Malformed("not JSON that can be read") from error
    return an_object(record)


def an_object(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise Malformed(f"a JSON object is needed, not {short(record)}")
    return record


def own_id(record: dict[str, Any]) -> str | None:
    """The record's id as text; None where it gives none."""
    value = record.get("id")
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not value:
        raise Malformed(f"the id must be text or a whole number, not {short(value)}")
    return text(value, "the id")


def filled_list(record: dict[str, Any], key: str) -> list[Any]:
    value = record.get(key)
    if not isinstance(value, list) or not value:
        raise Malformed(f"{key} must be a list that is not empty, not {short(value)}")
    return value


def text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise Malformed(f"{name} must be text, not {short(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Malformed(f"{name} holds half a character (a lone surrogate)") from error
    return value


def short(value: Any) -> str:
    """A value as part of a one-line message. Long ones are cut before they are spelled out: one may be 64 MiB."""
    shown = repr(value[:60] if isinstance(value, (str, bytes, list)) else value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def too_long(what: str) -> Malformed:
    return Malformed(f"{what} is longer than {MAX_LINE // 2**20} MiB")
