"""Where a run's time goes: seconds by stage.

Workers read a record (or draw a picture of the playground), decode its media, and encode both: resize, tokenise, lay
out. Their seconds are of all workers together, of the samples that were trained on. The main process waits for
samples, collates an update (noise, padding, totals over processes) and does everything else, which is the step: so its
three stages make up the time that has passed.

If it waits, data starve it, and the workers' largest stage says why. On a GPU, which computes while the main process
goes on, a little waiting costs nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter

WORKERS, MAIN = ("read", "decode", "encode"), ("wait", "collate")


class Clock:
    """Adds up seconds by stage: ``with clock("decode"): ...``."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            self.add({stage: perf_counter() - start})

    def add(self, seconds: Mapping[str, float]) -> None:
        for stage, spent in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

    def report(self, passed: float) -> dict[str, float]:
        """Seconds of every stage since the last report, ``passed`` seconds ago; what is not measured is the step's."""
        found = {stage: self.seconds.get(stage, 0.0) for stage in (*WORKERS, *MAIN)}
        found["step"] = passed - sum(found[stage] for stage in MAIN)
        self.seconds = {}
        return {stage: round(spent, 4) for stage, spent in found.items()}
