"""The frame of a study: arms that are run once, intervals over seeds, claims with a verdict.

An arm is measured once and its result kept as JSON, so that a stopped study goes on with the arm it stood at. All arms
of one seed see the same data and answer the same items, and each seed has its own: what two arms differ by is taken
seed by seed, and its interval over seeds covers data, noise and items alike.

The deciding choice: a verdict is a function of the claim's direction and of the interval, nothing else. With the few
seeds that a study can afford, an interval is Student's, wide, and "not distinguishable" is a frequent and honest
answer. Each claim is judged on its own; one in twenty of those without any effect would be called one.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing refuses a second run there
    fcntl = None

CONFIDENCE = 0.95
_GRID = 20_001  # points of the numerical integral behind `student`
Measured = tuple[dict[str, float], dict[str, list[tuple[int, float]]]]  # measures and curves, see `Result`
Verdict = Literal["confirmed", "contradicted", "not distinguishable"]


@dataclass(frozen=True)
class Arm:
    """One thing to measure: a name, what it changes, a seed.

    Attributes:
        name: what tables call it, and the folder that holds it.
        overrides: what differs from the study's other arms, by name: of training studies fields of the recipe.
        seed: of data, noise and held-out items.
    """

    name: str
    overrides: dict[str, Any]
    seed: int


@dataclass(frozen=True)
class Result:
    """What was measured of an arm.

    Attributes:
        measures: numbers by name.
        curves: by name [step, value] pairs.
    """

    arm: str
    seed: int
    measures: dict[str, float]
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval; infinite ends where one seed says nothing about the others."""

    value: float
    low: float
    high: float

    def text(self, digits: int, sign: str = "") -> str:
        """``0.52 [0.48, 0.56]``; ``sign`` "+" for differences."""
        value = f"{self.value:{sign}.{digits}f}"
        if not math.isfinite(self.high - self.low):
            return f"{value} (no interval)"
        return f"{value} [{self.low:{sign}.{digits}f}, {self.high:{sign}.{digits}f}]"


@dataclass(frozen=True)
class Claim:
    """A published statement about two arms, and what was found here.

    Attributes:
        text: the statement.
        published: its published figure, or that there is none.
        source: where that figure stands, and how good the evidence is.
        expected: the side of zero on which ``figure`` lies if the statement holds here.
        figure: the difference between the two arms, or the relative change in percent.
        unit: of ``figure``.
        digits: of ``figure`` behind the point.
    """

    text: str
    published: str
    source: str
    expected: Literal["higher", "lower"]
    figure: Interval
    unit: str
    digits: int = 1

    @property
    def verdict(self) -> Verdict:
        """Confirmed if the whole interval lies on the claimed side of zero, contradicted if on the other one."""
        if not (self.figure.low > 0 or self.figure.high < 0):  # what is no number is on no side either
            return "not distinguishable"
        return "confirmed" if (self.figure.low > 0) == (self.expected == "higher") else "contradicted"


@contextmanager
def opened(output: Path, settings: dict[str, Any]) -> Iterator[None]:
    """``output`` as the folder of the study that ``settings`` describe, this process alone in it.

    Raises:
        ValueError: another study's results lie there, another process writes there, or it cannot be written.
    """
    header, wanted = output / "study.json", as_json(settings)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with (output / ".lock").open("w") as lock:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = json.loads(header.read_text(encoding="utf-8")) if header.exists() else wanted
            _refuse_another(output, found, wanted)
            write_json(header, wanted)
            yield
    except BlockingIOError:
        raise ValueError(f"{output}: another study is writing there; wait for it or give another --output") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{header}: not the header of a study ({error})") from None


def _refuse_another(output: Path, found: Any, wanted: dict[str, Any]) -> None:
    for key, value in wanted.items():
        other = found.get(key) if isinstance(found, dict) else None
        if other != value:
            detail = f"is {other!r}, not {value!r}" if len(f"{other}{value}") < 200 else "differs"
            raise ValueError(f"{output} holds another study: its {key} {detail}; give another --output")


def run_arms(arms: Sequence[Arm], output: Path, measure: Callable[[Arm, Path], Measured]) -> list[Result]:
    """The results of all arms, in order; those that ``output`` holds already are not measured again.

    Args:
        measure: of an arm and its folder; what it leaves in the folder lets it go on if it is stopped.

    Raises:
        ValueError: a result file is not one of ours.
    """
    results = []
    for number, arm in enumerate(arms, 1):
        folder = output / arm.name / f"seed-{arm.seed}"
        file = folder / "result.json"
        if not file.exists():
            print(f"arm {number} of {len(arms)}: {arm.name}, seed {arm.seed}", file=sys.stderr)
            folder.mkdir(parents=True, exist_ok=True)
            measures, curves = measure(arm, folder)
            write_json(file, Result(arm.name, arm.seed, measures, curves))
        results.append(_read(file))
    return results


def _read(file: Path) -> Result:
    try:
        return Result(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: not the result of an arm ({error})") from None


def write_json(file: Path, value: Any) -> None:
    """Written beside, then renamed: a kill leaves the old file or the new one."""
    beside = file.with_name(file.name + ".new")
    beside.write_text(json.dumps(as_json(value), indent=1), encoding="utf-8")
    beside.replace(file)


def as_json(value: Any) -> Any:
    """What JSON gives back of ``value``: dataclasses as objects, tuples as arrays, numbers without end as null."""
    if is_dataclass(value):
        return as_json(asdict(value))
    if isinstance(value, dict):
        return {str(key): as_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def values(results: Sequence[Result], arm: str, measure: str) -> np.ndarray:
    """One arm's measure, by ascending seed [seeds]."""
    mine = sorted((r for r in results if r.arm == arm), key=lambda r: r.seed)
    return np.array([r.measures[measure] for r in mine], dtype=float)


def over_seeds(found: np.ndarray) -> Interval:
    """Mean and Student's 95 % interval of independent values [seeds]; no interval from one value."""
    mean = float(np.mean(found))
    if len(found) < 2:
        return Interval(mean, -math.inf, math.inf)
    half = student(len(found) - 1) * float(np.std(found, ddof=1)) / math.sqrt(len(found))
    return Interval(mean, mean - half, mean + half)


def difference(results: Sequence[Result], measure: str, arm: str, other: str) -> Interval:
    """``arm`` minus ``other``, paired by seed."""
    return over_seeds(values(results, arm, measure) - values(results, other, measure))


def change(results: Sequence[Result], measure: str, arm: str, other: str) -> Interval:
    """How much larger a positive measure is in ``arm`` than in ``other``, in percent, paired by seed.

    The interval is that of the logarithm of the ratio: halving is as far from none as doubling.
    """
    ratio = over_seeds(np.log(values(results, arm, measure)) - np.log(values(results, other, measure)))
    with np.errstate(over="ignore"):
        return Interval(*(float(100 * np.expm1(end)) for end in (ratio.value, ratio.low, ratio.high)))


@cache
def student(freedom: int) -> float:
    """The t beyond which, on either side, 5 % of Student's distribution lie.

    With t = sqrt(n) tan(a) its density becomes cos(a)^(n - 1), which is integrated numerically.
    """
    angles = np.linspace(0, math.pi / 2, _GRID)
    density = np.cos(angles) ** (freedom - 1)
    below = np.cumsum(density) - (density + density[0]) / 2  # trapezoids from 0 to each angle
    return math.sqrt(freedom) * math.tan(float(np.interp(CONFIDENCE, below / below[-1], angles)))
