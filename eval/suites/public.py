"""Suites of public benchmarks: which lmms-eval tasks they are, and how each of them is decoded.

A suite is a YAML file, one of this folder by its name, or anyone's by its path. The deciding choice: the file is the
whole of it, is copied word for word into every result, and is read without lmms-eval, which only running it needs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eval.suites.base import named
from vision_encoders.config import nearest

FOLDER = Path(__file__).parent
GRADES = ("A", "A-", "B", "C")
SETTINGS = ("mode", "policy", "block_size", "denoising_steps", "threshold", "max_new_tokens", "stop")
FACTS = ("title", "kind", "grade", "tasks", "metric", "judge")


@dataclass(frozen=True)
class Benchmark:
    """One line of a suite.

    Attributes:
        title: as papers call it. kind: ``image``, ``multi-image`` or ``video``.
        grade: how sure it is that it belongs to the suite, one of `GRADES`; the file says what they mean.
        tasks: lmms-eval's names of tasks or groups. metric: the figures of theirs that are reported.
        judge: whether answers are scored by a language model behind an API.
        settings: of decoding, keys of `SETTINGS`.
    """

    name: str
    title: str
    kind: str
    grade: str
    tasks: tuple[str, ...]
    metric: tuple[str, ...]
    judge: bool
    settings: dict[str, Any]


@dataclass(frozen=True)
class PublicSuite:
    """A suite file: its name, its benchmarks by name, and its text."""

    name: str
    benchmarks: dict[str, Benchmark]
    text: str

    def chosen(self, names: str | None) -> list[Benchmark]:
        """Those of a comma-separated list, all without one; ValueError with the nearest names for an unknown one."""
        return [self.benchmarks[name] for name in named(names, list(self.benchmarks), "benchmark")]


def names() -> list[str]:
    """The suites that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def is_public(suite: str) -> bool:
    return suite in names() or suite.endswith((".yaml", ".yml"))


def read_suite(suite: str) -> PublicSuite:
    """A suite of the package by its name, or a file by its path.

    Raises:
        ValueError: one line that names the file and what is wrong in it.
    """
    path = FOLDER / f"{suite}.yaml" if suite in names() else Path(suite)
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as a suite ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or not isinstance(content.get("benchmarks"), dict) or not content["benchmarks"]:
        raise ValueError(f"{path}: a suite needs `benchmarks`, entries by name")
    defaults = _checked(path, "defaults", content.get("defaults") or {}, SETTINGS)
    found = {name: _benchmark(path, name, entry, defaults) for name, entry in content["benchmarks"].items()}
    return PublicSuite(path.stem, found, text)


def _benchmark(path: Path, name: str, entry: Any, defaults: dict) -> Benchmark:
    entry = _checked(path, name, entry, (*FACTS, *SETTINGS))
    if entry.get("grade") not in GRADES:
        raise ValueError(f"{path}: {name}: grade {entry.get('grade')!r} is not one of {', '.join(GRADES)}")
    own = {key: value for key, value in entry.items() if key in SETTINGS}
    lists = {key: _texts(path, name, key, entry.get(key)) for key in ("tasks", "metric")}
    title, kind, judge = (str(entry.get("title", name)), str(entry.get("kind", "image")), bool(entry.get("judge")))
    return Benchmark(name, title, kind, entry["grade"], lists["tasks"], lists["metric"], judge, {**defaults, **own})


def _checked(path: Path, name: str, entry: Any, known: tuple[str, ...]) -> dict:
    if not isinstance(entry, dict):
        raise ValueError(f"{path}: {name}: must be keys and values")
    for key in entry:
        if key not in known:
            raise ValueError(f"{path}: {name}: unknown key {key!r}; {nearest(str(key), known)}")
    if "stop" in entry:
        _texts(path, name, "stop", entry["stop"], least=0)
    return entry


def _texts(path: Path, name: str, key: str, value: Any, least: int = 1) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) < least or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{path}: {name}: {key} must be a list of texts")
    return tuple(value)
