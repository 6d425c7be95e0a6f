"""Which frames of a clip are taken: rules on the times at which its frames are shown, and on nothing else.

Every rule gives ascending indices of different frames, at most ``max_frames`` of them:

- uniform, if nothing else is said: the clip is cut into N equal intervals, the frame at each one's centre is taken;
- ``fps``: the frames shown at start, start + 1/fps, and so on; of more than N of them, N uniform ones;
- ``scenes``: a frame of every scene, and more of the longer scenes;
- ``timestamps``: the frames shown at these seconds.

The deciding choice: a time means the frame on the screen at that time, the last one that began by then. ``start`` and
``end`` belong to the stretch they bound.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

EPSILON = 5e-4  # seconds: no two frames of a clip are nearer, and readers round times differently
CUT = 16.0  # of 255: a mean grey difference from which on a new scene begins
DENSITY = 8  # frames looked at for every frame taken, when scenes are sought
RULES = ("fps", "scenes", "timestamps")


class SamplingError(ValueError):
    """A sampling that is out of range, or asks for what a clip does not have; the message does not name the clip."""


@dataclass(frozen=True)
class Sampling:
    """How the frames of a clip are chosen. Times are seconds from its first frame.

    Args:
        max_frames: the most frames taken.
        fps: frames a second, at most.
        start, end: what lies outside is not looked at.
        timestamps: the moments whose frames are taken.
        scenes: every scene has its frame.
        max_pixels: larger frames are shrunk to this many pixels, their shape kept.
        raw_fps: frames a second of a folder or list of pictures, which has no times of its own.

    Raises:
        SamplingError: for a value out of its range, or rules that exclude each other.
    """

    max_frames: int = 16
    fps: float | None = None
    start: float = 0.0
    end: float | None = None
    timestamps: tuple[float, ...] | None = None
    scenes: bool = False
    max_pixels: int = 2**21  # a frame of 1080p stays as it is
    raw_fps: float | None = None

    def __post_init__(self):
        for name in ("max_frames", "max_pixels"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                said = "the number of video frames" if name == "max_frames" else name
                raise SamplingError(f"{said} must be at least 1, not {value!r}")
        for name in ("fps", "raw_fps"):
            value = getattr(self, name)
            if value is not None and not (_is_time(value) and value > 0):
                raise SamplingError(f"{name} must be a positive number, not {value!r}")
        if not isinstance(self.scenes, bool):
            raise SamplingError(f"scenes must be true or false, not {self.scenes!r}")
        self._check_times()
        given = [name for name in RULES if getattr(self, name)]
        if self.timestamps and (self.start or self.end is not None):
            given.append("start and end")
        if len(given) > 1:
            raise SamplingError(f"{' and '.join(given[:2])} exclude each other")

    def _check_times(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if not _is_time(value) and not (name == "end" and value is None):
                raise SamplingError(f"{name} must be a number of seconds from 0 on, not {value!r}")
        if self.end is not None and self.start >= self.end:
            raise SamplingError(f"start {self.start:g} s must lie before end {self.end:g} s")
        if self.timestamps is None:
            return
        if not isinstance(self.timestamps, (list, tuple)) or not self.timestamps:
            raise SamplingError(f"timestamps must be a list of seconds, not {self.timestamps!r}")
        for value in self.timestamps:
            if not _is_time(value):
                raise SamplingError(f"a timestamp must be a number of seconds from 0 on, not {value!r}")
        object.__setattr__(self, "timestamps", tuple(self.timestamps))

    @property
    def by_time(self) -> str | None:
        """The first setting that needs to know when frames are shown."""
        used = {"fps": self.fps, "start": self.start, "end": self.end, "timestamps": self.timestamps}
        return next((name for name, value in used.items() if value), None)


KEYS = tuple(field.name for field in fields(Sampling))


def settings(part: Mapping[str, Any]) -> dict[str, Any]:
    """What a content part says of its sampling; a null says nothing. Raises SamplingError."""
    given = {key: part[key] for key in KEYS if part.get(key) is not None}
    Sampling(**given)
    return given


def sampling_of(part: Mapping[str, Any], default: Sampling) -> Sampling:
    """The sampling of a content part: its own settings, ``default``'s where it has none; one rule replaces another."""
    given = settings(part)
    if any(given.get(rule) for rule in RULES):
        default = replace(default, fps=None, scenes=False, timestamps=None)
    if given.get("timestamps"):
        default = replace(default, start=0.0, end=None)
    elif default.timestamps and {"start", "end"} & given.keys():
        default = replace(default, timestamps=None)
    return replace(default, **given)


def choose(times: Sequence[float], sampling: Sampling, cut_off: bool = False) -> list[int]:
    """Indices of the frames to take, of frames shown from ``times`` [T] on; under ``scenes``, of those to look at.

    Args:
        times: ascending, seconds.
        cut_off: the clip was longer once; timestamps behind its end are left out and not refused.

    Raises:
        SamplingError: for a time behind the end, or more timestamps than ``max_frames``.
    """
    times = np.asarray(times, dtype=np.float64)
    if sampling.timestamps is not None:
        return _at_moments(times, sampling, cut_off)
    first, stop = _stretch(times, sampling.start, sampling.end)
    if sampling.fps is not None:
        end = min(_end(times) - 2 * EPSILON, math.inf if sampling.end is None else sampling.end)
        chosen = at_rate(times[first:stop], sampling.fps, sampling.start, end)
    else:
        chosen = range(stop - first)
    most = sampling.max_frames * (DENSITY if sampling.scenes else 1)
    return [first + chosen[i] for i in centres(len(chosen), most)]


def centres(total: int, frames: int) -> list[int]:
    """Indices of the centres of ``frames`` equal intervals of ``total`` frames; all of them if there are fewer."""
    if total <= frames:
        return list(range(total))
    return [(2 * k + 1) * total // (2 * frames) for k in range(frames)]


def at_rate(times: np.ndarray, fps: float, start: float, end: float) -> list[int]:
    """Of frames shown from ``times`` on, those on the screen at some ``start + k / fps``, up to ``end``.

    A frame holds the moments from its own time to the next frame's; the first holds those before it too.
    """
    moments = np.ceil((times - start - EPSILON) * fps)  # the first moment that is a frame's own or a later one's
    moments[0] = 0
    behind = max(math.floor((end - start + EPSILON) * fps) + 1, 1)
    return np.flatnonzero(moments < np.append(moments[1:], behind)).tolist()


def shown_at(times: np.ndarray, moments: Sequence[float]) -> list[int]:
    """The frames on the screen at the moments, each once, in order."""
    found = np.searchsorted(times, np.asarray(moments) + EPSILON, side="right") - 1
    return np.unique(np.maximum(found, 0)).tolist()


def scenes(changes: np.ndarray, frames: int) -> list[int]:
    """``frames`` of T frames, given how far each differs from the one before: ``changes`` [T - 1], grey levels.

    The largest changes from ``CUT`` on divide the clip, at most into ``frames`` scenes. Each has a frame; the others
    go one by one to the scene that has the most frames for each one taken. A clip without changes is sampled
    uniformly.
    """
    total = len(changes) + 1
    if total <= frames:
        return list(range(total))
    largest = [i for i in np.argsort(-changes, kind="stable")[: frames - 1] if changes[i] >= CUT]
    borders = [0, *sorted(int(i) + 1 for i in largest), total]
    lengths = np.diff(borders)  # [S]
    counts = np.ones(len(lengths), dtype=int)  # [S]
    while counts.sum() < frames:
        counts[np.argmax(np.where(counts < lengths, lengths / (counts + 1), 0))] += 1
    return [start + i for start, length, n in zip(borders, lengths.tolist(), counts) for i in centres(length, int(n))]


def labels(times: Sequence[float]) -> list[str]:
    """Times as a clock shows them, ``0:03`` or ``1:02:03``; as many decimals as tell them apart, three at most."""
    for digits in range(4):
        found = [_label(time, digits) for time in times]
        if len(set(found)) == len(found):
            break
    return found


def _label(time: float, digits: int) -> str:
    units = math.floor(time * 10**digits + 10**digits * EPSILON)  # a clock does not round up
    seconds, rest = divmod(units, 10**digits)
    decimals = f".{rest:0{digits}}" if digits else ""
    hours, minutes = seconds // 3600, seconds // 60 % 60
    clock = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{clock}:{seconds % 60:02}{decimals}"


def _at_moments(times: np.ndarray, sampling: Sampling, cut_off: bool) -> list[int]:
    moments = sorted(sampling.timestamps)
    if len(moments) > sampling.max_frames:
        raise SamplingError(f"{len(moments)} timestamps, but max_frames is {sampling.max_frames}")
    end = _end(times)
    within = [moment for moment in moments if moment <= end + EPSILON]
    if len(within) < len(moments) and not (cut_off and within):
        raise SamplingError(f"timestamp {moments[-1]:g} s lies behind its end at {end:g} s")
    return shown_at(times, within)


def _stretch(times: np.ndarray, start: float, end: float | None) -> tuple[int, int]:
    """First and one behind the last of the frames from ``start`` to ``end``; if none begins there, the one shown."""
    if start > (last := _end(times)) - EPSILON and start > 0:
        raise SamplingError(f"start {start:g} s lies behind its end at {last:g} s")
    first = int(np.searchsorted(times, start - EPSILON, side="left"))
    stop = len(times) if end is None else int(np.searchsorted(times, end + EPSILON, side="right"))
    return (first, stop) if first < stop else (max(first - 1, 0), max(first, 1))


def _end(times: np.ndarray) -> float:
    """When the last frame goes: it is taken to last as long as the others on average."""
    return float(times[-1] + (times[-1] - times[0]) / max(len(times) - 1, 1))


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
