"""A suite by its name, as the command line says it and as ``run.json`` remembers it."""

from eval.record import RunRecord
from eval.suites import local, parallel_bench, playground
from eval.suites.base import Suite
from vision_encoders.config import nearest

SUITES = ("playground", "parallel_bench", "local")


def suite_named(
    name: str, seed: int = 1, source: str | None = None, metric: str | None = None, media_root: str | None = None
) -> Suite:
    """The suite of that name.

    Raises:
        ValueError: for an unknown name, with the nearest ones; for options that the suite needs, or does not take.
    """
    if name not in SUITES:
        raise ValueError(f"unknown suite {name!r}; {nearest(name, SUITES)}")
    if name != "local":
        if source or metric or media_root:
            raise ValueError("--source, --metric and --media-root go with --suite local")
        return (playground if name == "playground" else parallel_bench).suite(seed)
    if not source or not metric:
        raise ValueError(f"--suite local needs --source FILE and --metric NAME (one of {', '.join(local.METRICS)})")
    return local.suite(source, metric, media_root)


def suite_of(run: RunRecord) -> Suite:
    """The suite whose items a run holds.

    Raises:
        ValueError: if its source is no longer what it was.
    """
    given = {key: run.items.get(key) for key in ("source", "metric", "media_root")}
    suite = suite_named(run.suite, run.seed, **given)
    if suite.items != run.items:
        raise ValueError(f"{given['source']} has changed since the run")
    return suite
